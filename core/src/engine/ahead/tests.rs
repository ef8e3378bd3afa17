//! Many captures, on files: one worker, which has nothing ahead, is the measure.

use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::capture::Reason;
use crate::engine::tests::{START, assert_balanced, capture, mixed, settings, stats, udp, without_handles};
use crate::flow::{EndReason, Report};

type Fault = Box<dyn std::error::Error>;

/// A directory that goes when the test has ended.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Result<Self, Fault> {
        let path = std::env::temp_dir().join(format!("vpn-classifier-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn save(&self, name: &str, data: &[u8]) -> Result<String, Fault> {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        std::fs::write(&path, data)?;
        Ok(path.to_str().ok_or("no UTF-8")?.to_owned())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn gzip(data: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(data)?;
    Ok(packed.finish()?)
}

/// Captures of all kinds: whole, packed, cut, damaged, empty, none, missing, of one name, large beside small.
fn all_kinds(directory: &Directory) -> Result<Vec<String>, Fault> {
    let frames = mixed(3_000);
    let mut paths = Vec::new();
    for number in 0..12 {
        let some = capture(&frames[number * 10..][..60 + 120 * (number % 5)]);
        paths.push(directory.save(&format!("{number}/one.pcap"), &some)?);
        paths.push(directory.save(&format!("{number}/packed.gz"), &gzip(&some)?)?);
        match number % 4 {
            0 => paths.push(directory.save(&format!("{number}.cut.pcap"), &some[..some.len() - 7])?),
            1 => paths.push(directory.save(&format!("{number}.empty.pcap"), &[])?),
            2 => paths.push(directory.save(&format!("{number}.none.pcap"), b"neither pcap nor pcapng")?),
            _ => paths.push(format!("{}/{number}.missing.pcap", directory.0.display())),
        }
        let packed = gzip(&some)?;
        paths.push(directory.save(&format!("{number}.cut.gz"), &packed[..packed.len() - 20])?);
    }
    paths.insert(20, directory.save("large.pcap", &capture(&frames))?);
    paths.push(directory.save("header.pcap", &capture(&[]))?);
    Ok(paths)
}

/// What a replay of a capture tells: reports as text, faults, and where it stood in the end.
type Account = (Vec<String>, Vec<(Reason, Option<u64>)>, Vec<(LinkType, u64)>, u64);

fn replay(engine: &mut Engine, paths: &[String], longest: Duration) -> Result<Vec<Account>, Fault> {
    paths.iter().map(|path| replay_one(engine, path, longest)).collect()
}

fn replay_one(engine: &mut Engine, path: &str, longest: Duration) -> Result<Account, Fault> {
    let (mut text, mut faults) = (Vec::new(), Vec::new());
    if let Err(error) = engine.open(Path::new(path), path) {
        return Ok((text, vec![(error.reason, error.offset)], Vec::new(), 0));
    }
    loop {
        match engine.poll(longest) {
            Ok(None) => break,
            Ok(Some(reports)) => text.append(&mut without_handles(&reports)),
            Err(error) => faults.push((error.reason, error.offset)),
        }
    }
    Ok((text, faults, engine.link_types(), engine.progress().0))
}

#[test]
fn captures_of_all_kinds_give_the_same_on_any_number_of_workers() -> Result<(), Fault> {
    let directory = Directory::new("kinds")?;
    let paths = all_kinds(&directory)?;
    let mut alone = Engine::new(settings(1))?;
    alone.announce(paths.clone());
    let expected = replay(&mut alone, &paths, Duration::from_secs(60))?;
    let known: Vec<_> = expected.iter().flat_map(|(_, faults, ..)| faults.iter().map(|(reason, _)| *reason)).collect();
    for reason in [Reason::Truncated, Reason::Empty, Reason::NotACapture, Reason::NotFound, Reason::Compression] {
        assert!(known.contains(&reason), "{reason:?}");
    }
    // The one is the caller's hand without any thread.
    for workers in [1, 2, 3, 7] {
        for longest in [Duration::ZERO, Duration::from_secs(60)] {
            let mut engine = Engine::new(settings(workers))?;
            engine.ahead = Some(Ahead::start(&settings(workers), &[])?);
            engine.announce(paths.clone());
            let found = replay(&mut engine, &paths, longest)?;
            for ((path, expected), found) in paths.iter().zip(&expected).zip(&found) {
                assert!(expected == found, "{path}, {workers} workers");
            }
            let stats = stats(&mut engine);
            assert_balanced(&stats);
            assert_eq!(stats, self::stats(&mut alone), "{workers} workers");
        }
    }
    Ok(())
}

#[test]
fn one_thread_works_what_has_enough_behind_it() -> Result<(), Fault> {
    let directory = Directory::new("who")?;
    let frames = mixed(400);
    let small = capture(&frames[..20]);
    let mut paths = Vec::new();
    for number in 0..4 {
        paths.push(directory.save(&format!("{number}.pcap"), &small)?);
    }
    paths.insert(1, directory.save("large.pcap", &capture(&frames))?);
    paths.insert(1, directory.0.to_str().ok_or("no UTF-8")?.to_owned());
    paths.insert(1, "-".to_owned());
    let ahead = Ahead::start(&Settings { workers: 3, ..settings(1) }, &[])?;
    ahead.announce(paths);
    let mut plan = ahead.shared.plan();
    for place in 0..7 {
        plan.decide(place);
    }
    let by_one: Vec<_> = plan.captures.iter().map(|capture| capture.job().is_some()).collect();
    // Standard input and a directory are no files; the large one has 3 small ones behind it, the last but one has one.
    assert_eq!(by_one, [true, false, false, false, true, false, false]);
    Ok(())
}

/// Waits until no thread has anything to do.
fn quiet(engine: &Engine) -> MutexGuard<'_, Plan> {
    let shared = &engine.ahead.as_ref().expect("announced captures").shared;
    loop {
        let plan = shared.plan();
        if plan.waiting + 1 == plan.workers {
            return plan;
        }
        drop(plan);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn tags_are_in_every_later_report_also_when_it_was_made_before() -> Result<(), Fault> {
    let directory = Directory::new("kept")?;
    let data = capture(&mixed(20_000));
    let paths: Vec<_> =
        (0..5).map(|number| directory.save(&format!("{number}.pcap"), &data)).collect::<Result<_, _>>()?;
    let mut engine = Engine::new(Settings { packet_milestones: (2..200).collect(), ..settings(2) })?;
    engine.announce(paths.clone());
    drop(quiet(&engine));
    for path in &paths[..3] {
        engine.open(Path::new(path), path)?;
        let (mut tags, mut later, mut polls) = (std::collections::BTreeMap::new(), 0, 0);
        while let Some(reports) = engine.poll(Duration::from_secs(60))? {
            polls += 1;
            let mut new: Vec<(u64, u64, u32)> = Vec::new();
            for report in reports {
                assert_eq!(report.tag, tags.get(&report.flow_id).copied().unwrap_or_default());
                later += u32::from(report.tag != 0);
                match report.report {
                    Report::Ended => new.retain(|(flow, ..)| *flow != report.flow_id),
                    _ => new.push((report.flow_id, report.handle, report.flow_id as u32 | 1)),
                }
            }
            tags.extend(new.iter().map(|(flow, _, tag)| (*flow, *tag)));
            engine.set_tags(new.into_iter().map(|(_, handle, tag)| (handle, tag)).collect())?;
        }
        assert!(polls > 1 && later > 100, "{polls} polls, {later}");
        assert!(engine.tags.is_empty(), "those of flows that have ended are not kept");
    }
    Ok(())
}

#[test]
fn what_is_ahead_is_bounded() -> Result<(), Fault> {
    let directory = Directory::new("bounds")?;
    let data = capture(&mixed(3_000));
    let many = directory.save("many.pcap", &data)?;
    let few = directory.save("few.pcap", &capture(&mixed(20)))?;
    for (path, count) in [(many, 24), (few, 150)] {
        let mut engine = Engine::new(Settings { packet_milestones: (2..200).collect(), ..settings(2) })?;
        engine.announce(vec![path.clone(); count]);
        let plan = quiet(&engine);
        let (kept, begun) = (plan.kept(), plan.jobs().filter(|job| job.taken.is_some()).count());
        let one = plan.jobs().map(Job::kept).max().unwrap_or_default();
        // Each thread may go past the bound by one step.
        assert!(kept < MOST_REPORTS + 2 * one.max(ENOUGH_REPORTS), "{kept}");
        assert!(begun == plan.most() || kept + 2 * ENOUGH_REPORTS > MOST_REPORTS, "{begun} captures, {kept} reports");
        assert!(begun <= plan.most());
        drop(plan);
        // All the same, everything is told, whoever is waited for.
        let found = replay(&mut engine, &vec![path.clone(); count], Duration::from_millis(1))?;
        assert!(found.iter().all(|one| *one == found[0]) && !found[0].0.is_empty());
        assert_eq!(stats(&mut engine)["captures"], count as u64);
    }
    Ok(())
}

/// Changes settings of the engine.
type Change = fn(&mut Engine);

#[test]
fn what_was_worked_by_other_settings_is_worked_anew() -> Result<(), Fault> {
    let directory = Directory::new("anew")?;
    let frames = mixed(2_000);
    let paths: Vec<_> = (0..12)
        .map(|number| directory.save(&format!("{number}.pcap"), &capture(&frames[..1_500 + number])))
        .collect::<Result<_, _>>()?;
    let changes: [Change; 3] = [
        |engine| engine.review_at(vec![((START + 20) * 1_000_000_000) as i64]),
        |engine| engine.set_milestones(vec![3, 9], Vec::new()).unwrap_or_default(),
        |engine| engine.set_subscribers(&[(vec![100, 64, 0, 0], 10)]).unwrap_or_default(),
    ];
    let mut texts = Vec::new();
    for change in changes {
        let mut found = Vec::new();
        for workers in [1, 2] {
            let mut engine = Engine::new(settings(workers))?;
            engine.announce(paths.clone());
            if workers > 1 {
                drop(quiet(&engine));
            }
            let mut account = replay(&mut engine, &paths[..4], Duration::from_secs(60))?;
            // Opened, and nothing has been told of it.
            engine.open(Path::new(&paths[4]), &paths[4])?;
            change(&mut engine);
            let mut text = Vec::new();
            while let Some(reports) = engine.poll(Duration::from_secs(60))? {
                text.append(&mut without_handles(&reports));
            }
            account.push((text, Vec::new(), engine.link_types(), engine.progress().0));
            account.append(&mut replay(&mut engine, &paths[5..], Duration::from_secs(60))?);
            found.push((account, stats(&mut engine)));
        }
        assert!(found[0] == found[1]);
        texts.push(found.swap_remove(0).0);
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    Ok(())
}

#[test]
fn a_capture_of_which_something_was_told_goes_on_by_other_settings() -> Result<(), Fault> {
    let directory = Directory::new("goes-on")?;
    // More reports than are kept of a capture that is open, so that it is not done when the settings change.
    let frames = mixed(40_000);
    let path = directory.save("long.pcap", &capture(&frames))?;
    let every = Settings { packet_milestones: (2..10_000).collect(), ..settings(2) };
    let mut engine = Engine::new(every)?;
    engine.announce(vec![path.clone(); 4]);
    engine.open(Path::new(&path), &path)?;
    let first = engine.poll(Duration::from_secs(60))?.ok_or("done")?;
    assert!(!first.is_empty());
    drop(quiet(&engine));
    engine.set_milestones(Vec::new(), Vec::new())?;
    engine.review()?;
    let mut rest = Vec::new();
    while let Some(mut reports) = engine.poll(Duration::from_secs(60))? {
        rest.append(&mut reports);
    }
    // The review is of one frame, and after it nothing comes at a number of packets.
    let by_number = rest.chunk_by(|one, other| one.number == other.number);
    let review = by_number.max_by_key(|rows| rows.iter().filter(|row| row.report == Report::Milestone).count());
    let number = review.and_then(|rows| rows.first()).ok_or("no review")?.number;
    assert!(rest.iter().all(|row| row.number <= number || row.report != Report::Milestone));
    assert!(number > first[0].number && number < frames.len() as u64);
    Ok(())
}

#[test]
fn a_stop_ends_the_open_capture_and_forgets_the_others() -> Result<(), Fault> {
    let directory = Directory::new("stop")?;
    let frames = mixed(40_000);
    let path = directory.save("long.pcap", &capture(&frames))?;
    let every = Settings { packet_milestones: (2..10_000).collect(), ..settings(2) };
    let mut engine = Engine::new(every)?;
    engine.announce(vec![path.clone(); 6]);
    engine.open(Path::new(&path), &path)?;
    assert!(engine.poll(Duration::from_secs(60))?.is_some());
    drop(quiet(&engine));
    engine.finish();
    let mut last = Vec::new();
    while let Some(mut reports) = engine.poll(Duration::from_secs(60))? {
        last.append(&mut reports);
    }
    assert_eq!(last.last().and_then(|report| report.end_reason), Some(EndReason::ForcedEnd));
    let stats = stats(&mut engine);
    assert_balanced(&stats);
    assert!(stats["captures"] == 1 && stats["frames"] > 0 && stats["frames"] < 40_000);
    assert!(quiet(&engine).captures.is_empty());
    Ok(())
}

#[test]
fn another_capture_than_was_said_may_be_opened_and_one_be_left() -> Result<(), Fault> {
    let directory = Directory::new("another")?;
    let frames = mixed(2_000);
    let paths: Vec<_> = (0..6)
        .map(|number| directory.save(&format!("{number}.pcap"), &capture(&frames[..1_000 + number])))
        .collect::<Result<_, _>>()?;
    let mut alone = Engine::new(settings(1))?;
    let expected = replay(&mut alone, &paths, Duration::from_secs(60))?;
    let mut engine = Engine::new(settings(2))?;
    engine.announce(paths[..4].to_vec());
    let found = replay(&mut engine, &paths[5..], Duration::from_secs(60))?;
    assert!(found[0] == expected[5]);
    // Left as soon as it is open, and opened once more when the next one was to come.
    engine.open(Path::new(&paths[0]), &paths[0])?;
    let found = replay(&mut engine, &paths[..1], Duration::from_secs(60))?;
    assert!(found[0] == expected[0]);
    let found = replay(&mut engine, &paths[1..4], Duration::from_secs(60))?;
    assert!(found == expected[1..4]);
    // Announced in the middle of one.
    engine.announce(paths.clone());
    engine.open(Path::new(&paths[0]), &paths[0])?;
    engine.poll(Duration::from_secs(60))?;
    engine.announce(paths[1..].to_vec());
    while engine.poll(Duration::from_secs(60))?.is_some() {}
    let found = replay(&mut engine, &paths[1..], Duration::from_secs(60))?;
    assert!(found == expected[1..]);
    // With everything under way.
    engine.announce(paths.clone());
    drop(engine);
    Ok(())
}

#[test]
fn a_thread_that_is_gone_is_said_once_and_all_together_work_the_rest() -> Result<(), Fault> {
    let directory = Directory::new("gone")?;
    let frames = mixed(40_000);
    let path = directory.save("long.pcap", &capture(&frames))?;
    let every = Settings { packet_milestones: (2..10_000).collect(), ..settings(2) };
    let mut engine = Engine::new(every)?;
    let paths = vec![path.clone(); 4];
    engine.announce(paths.clone());
    // The thread has the first one, and waits for room.
    drop(quiet(&engine));
    engine.open(Path::new(&path), &path)?;
    assert!(engine.poll(Duration::from_secs(60))?.is_some());
    engine.ahead.as_ref().ok_or("nothing ahead")?.order(|_| panic!("a fault of this test"));
    assert_eq!(faults_to_the_end(&mut engine), ["a worker thread has ended"]);
    let found = replay(&mut engine, &paths[1..], Duration::from_secs(60))?;
    assert!(found.iter().all(|(text, faults, ..)| !text.is_empty() && faults.is_empty()));
    Ok(())
}

#[test]
fn an_engine_is_kept_but_for_one_that_has_had_many_flows() -> Result<(), Fault> {
    let directory = Directory::new("many-flows")?;
    let flows = |count: u64| {
        let frame = |flow: u64| {
            udp(([100, 64, (flow >> 8) as u8, flow as u8], 40_000), ([203, 0, 113, (flow >> 16) as u8], 9), b"one")
        };
        capture(&(0..count).map(|flow| (START * 1_000_000, frame(flow))).collect::<Vec<_>>())
    };
    let few = directory.save("few.pcap", &flows(MANY_FLOWS))?;
    let many = directory.save("many.pcap", &flows(MANY_FLOWS + 1))?;
    let mut engine = Engine::new(settings(1))?;
    engine.ahead = Some(Ahead::start(&settings(1), &[])?);
    engine.announce(vec![few.clone(), many.clone(), few.clone()]);
    for (path, is_kept) in [(&few, true), (&many, false), (&few, true)] {
        replay_one(&mut engine, path, Duration::from_secs(60))?;
        let hand = &engine.ahead.as_ref().ok_or("nothing ahead")?.hand;
        assert_eq!(hand.engine.is_some(), is_kept, "{path}");
    }
    Ok(())
}

fn faults_to_the_end(engine: &mut Engine) -> Vec<String> {
    let mut faults = Vec::new();
    loop {
        match engine.poll(Duration::from_secs(60)) {
            Ok(None) => return faults,
            Ok(Some(_)) => {}
            Err(error) => faults.push(error.found),
        }
    }
}

#[test]
fn a_fault_in_the_hand_of_the_caller_is_the_callers_and_ends_the_capture() -> Result<(), Fault> {
    let directory = Directory::new("caller")?;
    let path = directory.save("long.pcap", &capture(&mixed(40_000)))?;
    let every = Settings { packet_milestones: (2..10_000).collect(), ..settings(1) };
    let mut engine = Engine::new(every.clone())?;
    engine.ahead = Some(Ahead::start(&every, &[])?);
    engine.announce(vec![path.clone(); 2]);
    engine.open(Path::new(&path), &path)?;
    engine.ahead.as_ref().ok_or("nothing ahead")?.order(|_| panic!("a fault of this test"));
    let poll = std::panic::AssertUnwindSafe(|| while engine.poll(Duration::from_secs(60)).is_ok() {});
    assert!(std::panic::catch_unwind(poll).is_err());
    assert_eq!(faults_to_the_end(&mut engine), ["a worker thread has ended"]);
    let (text, faults, ..) = replay_one(&mut engine, &path, Duration::from_secs(60))?;
    assert!(!text.is_empty() && faults.is_empty());
    Ok(())
}
