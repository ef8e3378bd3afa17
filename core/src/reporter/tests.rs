//! What is asked, what is said and what is kept, with somebody who answers as simply as can be.

use super::answers::Ends;
use super::testing::report;
use super::*;
use crate::line::Template;

const SECOND: i64 = 1_000_000_000;
const FIRST_TAG: u32 = 5;

fn template(text: &str) -> Template {
    text.as_bytes().into()
}

fn reporter(as_of: Option<i64>) -> Reporter {
    let heads = EVENTS.map(|event| format!("\"event\":\"{event}\"").into_bytes());
    Reporter::new(Constants { heads, tail: b"\"version\":\"1\"".to_vec(), as_of, counts: true })
}

/// A report of the flow with this handle, which is one of its host's.
fn flow(handle: u64, report: Report, time: i64) -> FlowReport {
    let source = format!("198.51.100.{handle}:40000");
    let (flow_id, end) = (handle, time);
    FlowReport { report, handle, flow_id, time, end, ..self::report(&source, "203.0.113.10:51820") }
}

fn attempt(handle: u64, report: Report, time: i64) -> FlowReport {
    let mut flow = flow(handle, report, time);
    flow.finding.phase = Phase::Attempt;
    flow
}

fn ends(grounds: u32) -> Ends {
    let (from, until, reasons) = (i64::MIN, i64::MAX, Default::default());
    Ends { from, until, entries: template("[]"), asks_seen: false, subject_answers: false, grounds, reasons }
}

/// Says this tag and the source; an update where nothing else is set.
fn answer(tag: u32) -> Answer {
    Answer {
        from: i64::MIN,
        until: i64::MAX,
        event: EVENTS.iter().position(|event| *event == "update"),
        tag,
        flags: false,
        newly_flagged: false,
        turns: false,
        counted: 3,
        reason: 0,
        opening: [template("another of "), template("first of ")],
        middle: template(&format!(" tag {tag} ")),
        closing: template(" \x01"),
    }
}

fn flagged(tag: u32) -> Answer {
    Answer { flags: true, newly_flagged: true, ..answer(tag) }
}

/// What was asked: of which flow, with which tag, at which time, and whether its ends are known.
type Asked = (u64, u32, i64, bool);

/// Goes through a batch. `say` gives ends, answer, and since when the case was seen. The tags of the batch before are
/// the engine's by then, and so in what it reports.
fn go(
    reporter: &mut Reporter,
    batch: &[FlowReport],
    mut say: impl FnMut(&Question, &FlowReport) -> (Ends, Answer, i64),
) -> Vec<Asked> {
    let mut asked = Vec::new();
    reporter.take_tags();
    reporter.begin(b"\"in_iface\":\"eth1\"");
    loop {
        match reporter.go_on(batch) {
            Stop::Question => {
                let (question, report) = reporter.question(batch).expect("a question");
                asked.push((report.handle, question.tag, question.at, question.known.is_some()));
                let (ends, answer, seen) = say(question, report);
                let ends = question.known.is_none().then(|| Arc::new(ends));
                assert!(reporter.learn(ends, Some(b"for a reason,"), Arc::new(answer), seen));
            }
            Stop::Done => return asked,
            other => panic!("{other:?}"),
        }
    }
}

/// The same where every answer is the same.
fn go_on(reporter: &mut Reporter, batch: &[FlowReport], answer: &Answer) -> Vec<Asked> {
    go(reporter, batch, |_, _| (ends(1), answer.clone(), 0))
}

/// What was said since the last time: event, and what stands as its policy.
fn said(reporter: &mut Reporter) -> Vec<String> {
    let (text, written, _) = reporter.lines();
    let lines = String::from_utf8_lossy(text).into_owned();
    let between = |line: &str, from: &str, to: &str| {
        line.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found.to_owned())
    };
    let found: Vec<_> = lines
        .lines()
        .map(|line| {
            let event = between(line, "\"event\":\"", "\"").expect("an event");
            format!("{event}: {}", between(line, "\"policy\":", ",\"flow\"").expect("a policy"))
        })
        .collect();
    assert_eq!(found.len(), written.len());
    reporter.clear_lines();
    found
}

#[test]
fn flows_that_cannot_be_told_apart_get_what_was_answered_about_one() {
    let mut reporter = reporter(None);
    let batch = [1, 2, 3].map(|handle| flow(handle, Report::Recognised, 9));
    let answers = answer(FIRST_TAG);
    assert_eq!(go_on(&mut reporter, &batch, &answers), [(1, 0, 9, false)]);
    let expected = [1, 2, 3].map(|handle| format!("update: another of [] tag 5 for a reason, 198.51.100.{handle}"));
    assert_eq!(said(&mut reporter), expected);
    assert_eq!(reporter.size(), (1, 1));

    // What differs in its state is asked about with ends that are known, what differs in its ends without.
    let mut established = flow(4, Report::Recognised, 10);
    established.finding.phase = Phase::Established;
    let openvpn = FlowReport { protocol: Protocol::OpenVpn, ..flow(5, Report::Recognised, 11) };
    let tagged = FlowReport { tag: 9, ..flow(6, Report::Recognised, 12) };
    let asked = go_on(&mut reporter, &[established, openvpn, tagged], &answers);
    assert_eq!(asked, [(4, 0, 10, true), (5, 0, 11, false), (6, 9, 12, true)]);

    // Nothing of it holds by another register.
    assert_eq!(go_on(&mut reporter, &batch, &answers), []);
    reporter.adopt(Arc::default(), i64::MAX);
    assert_eq!((reporter.size(), go_on(&mut reporter, &batch, &answers)), ((0, 0), vec![(1, 0, 9, false)]));
    reporter.forget();
    assert_eq!((reporter.size(), go_on(&mut reporter, &batch, &answers)), ((0, 0), vec![(1, 0, 9, false)]));
}

#[test]
fn an_answer_whose_reason_the_ends_do_not_have_yet_is_asked_for_once() {
    let mut reporter = reporter(None);
    let openvpn = |report| FlowReport { protocol: Protocol::OpenVpn, ..flow(2, report, 9) };
    // Ends of one grounds share the answers; the reasons are those of each.
    let mut judge = |_: &Question, report: &FlowReport| {
        (ends(1), Answer { reason: usize::from(report.report == Report::Update), ..answer(FIRST_TAG) }, 0)
    };
    let batch = [flow(1, Report::Recognised, 9), flow(3, Report::Update, 9), openvpn(Report::Recognised)];
    assert_eq!(go(&mut reporter, &batch, &mut judge).len(), 3);
    let update = [openvpn(Report::Update), openvpn(Report::Update)];
    let update = update.map(|report| FlowReport { handle: 4, ..report });
    assert_eq!(go(&mut reporter, &update[..1], &mut judge), [(4, 0, 9, true)]);
    assert_eq!(go(&mut reporter, &update[1..], &mut judge), []);
    // And the first reason is still there.
    let again = FlowReport { handle: 6, ..openvpn(Report::Recognised) };
    assert_eq!(go(&mut reporter, &[again], &mut judge), []);
    assert!(said(&mut reporter).iter().all(|line| line.contains("for a reason,")));
}

#[test]
fn the_tag_that_a_batch_sets_counts_in_its_later_reports() {
    let mut reporter = reporter(None);
    let reports = [Report::Recognised, Report::Update, Report::Changed, Report::Ended];
    let batch: Vec<_> = (1..).zip(reports).map(|(time, report)| flow(7, report, time)).collect();
    let mut tags = [5, 6, 6, 8].into_iter();
    let asked = go(&mut reporter, &batch, |_, _| (ends(1), answer(tags.next().expect("a tag")), 0));
    assert_eq!(asked, [(7, 0, 1, false), (7, 5, 2, true), (7, 6, 3, true), (7, 6, 4, true)]);
    assert!(reporter.take_tags().is_empty(), "it has ended");

    // What was the last word before is none to set; what is said without an event is.
    let told = FlowReport { tag: 9, ..flow(1, Report::Update, 9) };
    go_on(&mut reporter, &[told, flow(2, Report::Update, 9)], &Answer { event: None, ..answer(9) });
    assert_eq!(reporter.take_tags().into_iter().collect::<Vec<_>>(), [(2, 9)]);
    assert_eq!(said(&mut reporter).len(), 4);
}

#[test]
fn attempts_beyond_the_rate_are_neither_asked_about_nor_told() {
    let mut reporter = reporter(None);
    let batch: Vec<_> = (1..=12).map(|handle| attempt(handle, Report::Recognised, 9)).collect();
    assert_eq!(go_on(&mut reporter, &batch, &answer(FIRST_TAG)), [(1, 0, 9, false)]);
    assert_eq!((said(&mut reporter).len(), reporter.take_tags().len()), (10, 10));
    let counts = reporter.take_counts();
    assert_eq!(counts.summarised, [(Protocol::WireGuard, Confidence::Likely); 2]);
    assert_eq!(counts.told.len(), 10);
    assert_eq!(counts.told[9].subject, IpAddr::from([198, 51, 100, 10]));
    assert_eq!(reporter.counters()[0], ("attempts.summarised", 2));

    // Of those that were counted nothing is said while they are attempts, and they are counted once. Of those that were
    // told everything is, as long as their tag stands for something.
    let tagged = |tag| FlowReport { tag, ..attempt(1, Report::Changed, 10) };
    let untold = [tagged(0), attempt(12, Report::Ended, 10), tagged(FIRST_TAG + 1)];
    assert_eq!(go_on(&mut reporter, &untold, &answer(FIRST_TAG)), []);
    assert_eq!(go_on(&mut reporter, &[tagged(FIRST_TAG)], &answer(FIRST_TAG)).len(), 1);
    assert_eq!(said(&mut reporter).len(), 1);
    reporter.forget_tag(FIRST_TAG);
    assert_eq!(go_on(&mut reporter, &[tagged(FIRST_TAG)], &answer(FIRST_TAG)), []);
    assert_eq!((said(&mut reporter).len(), reporter.counters()[0].1), (0, 2));

    // Once answered, it is a flow like any other.
    assert_eq!(go_on(&mut reporter, &[flow(12, Report::Changed, 11)], &answer(FIRST_TAG)).len(), 1);
    assert_eq!(said(&mut reporter).len(), 1);
}

#[test]
fn summaries_that_are_due_come_before_the_report_that_shows_the_time() {
    let mut reporter = reporter(None);
    let batch: Vec<_> = (1..=12).map(|handle| attempt(handle, Report::Recognised, 9)).collect();
    go_on(&mut reporter, &batch, &answer(FIRST_TAG));
    said(&mut reporter);
    assert!(reporter.advance(attempts::WINDOW + 8).is_empty());

    let batch = [attempt(1, Report::Recognised, attempts::WINDOW + 9)];
    reporter.take_tags();
    reporter.begin(b"");
    assert_eq!((reporter.go_on(&batch), reporter.clock()), (Stop::Summaries, attempts::WINDOW + 9));
    assert_eq!(reporter.take_summaries().iter().map(|summary| summary.count).collect::<Vec<_>>(), [2]);
    assert!(said(&mut reporter).is_empty());
    assert_eq!((reporter.go_on(&batch), said(&mut reporter).len()), (Stop::Done, 1));

    // At the end there are those still open, and another capture has a clock and a rate of its own.
    for handle in 2..=12 {
        go_on(&mut reporter, &[attempt(handle, Report::Recognised, attempts::WINDOW + 10)], &answer(FIRST_TAG));
    }
    assert_eq!(said(&mut reporter).len(), 9);
    assert!(reporter.advance(attempts::WINDOW).is_empty(), "a time that has passed");
    let last: Vec<_> = reporter.end().iter().map(|summary| (summary.time, summary.count)).collect();
    assert_eq!((last, reporter.clock()), (vec![(attempts::WINDOW + 10, 2)], 0));
    go_on(&mut reporter, &[attempt(13, Report::Recognised, 1)], &answer(FIRST_TAG));
    assert_eq!((said(&mut reporter).len(), reporter.clock()), (1, 1));
}

#[test]
fn a_flow_is_judged_at_the_packet_clock_and_one_that_ended_at_its_last_packet() {
    for (report, end, as_of, at) in [
        (Report::Update, 40, None, 100),
        (Report::Milestone, 100, None, 100),
        (Report::Ended, 100, None, 100),
        (Report::Ended, 40, None, 40),
        (Report::Ended, 40, Some(9), 9),
        (Report::Update, 40, Some(9), 9),
    ] {
        let batch = [FlowReport { end, ..flow(1, report, 100) }];
        let asked = go_on(&mut reporter(as_of), &batch, &answer(FIRST_TAG));
        assert_eq!(asked, [(1, 0, at, false)], "{report:?} {end} {as_of:?}");
    }
}

#[test]
fn what_was_answered_is_asked_again_once_its_time_has_passed() {
    let mut reporter = reporter(None);
    let until = |until| Answer { until, ..answer(FIRST_TAG) };
    assert_eq!(go_on(&mut reporter, &[flow(1, Report::Update, 9)], &until(20)).len(), 1);
    assert_eq!(go_on(&mut reporter, &[flow(2, Report::Update, 19)], &until(20)), []);
    assert_eq!(go_on(&mut reporter, &[flow(3, Report::Update, 20)], &until(30)), [(3, 0, 20, true)]);
    reporter.forget();
    let short = |_: &Question, _: &FlowReport| (Ends { until: 40, ..ends(1) }, answer(FIRST_TAG), 0);
    assert_eq!(go(&mut reporter, &[flow(4, Report::Update, 39)], short).len(), 1);
    assert_eq!(go(&mut reporter, &[flow(5, Report::Update, 39)], short), []);
    assert_eq!(go(&mut reporter, &[flow(6, Report::Update, 40)], short), [(6, 0, 40, false)]);
}

/// From some date on a flow is flagged; its last packet was before.
#[test]
fn a_flow_that_may_be_over_is_not_flagged_by_a_date_that_passed_since() {
    const DATE: i64 = 1_000 * SECOND;
    let run = |kind, time: i64, end: i64, as_of| {
        let mut reporter = reporter(as_of);
        let batch = [FlowReport { end, tag: 4, ..flow(1, kind, time) }];
        let asked = go(&mut reporter, &batch, |question, _| {
            let after = Answer { from: DATE, turns: true, ..flagged(6) };
            (ends(1), if question.at < DATE { Answer { until: DATE, ..answer(5) } } else { after }, 0)
        });
        let times: Vec<_> = asked.iter().map(|&(_, _, at, _)| at).collect();
        let tags: Vec<_> = reporter.take_tags().into_values().collect();
        (times, tags, said(&mut reporter).len())
    };
    let (late, before) = (DATE + 30 * SECOND, DATE - 31 * SECOND);
    assert_eq!(run(Report::Update, late, before, None), (vec![late, before], vec![5], 1));
    assert_eq!(run(Report::Milestone, late, before, None), (vec![late, before], vec![], 0));
    // It was sending so shortly before that it goes on, or after the date as well; or one time holds for all.
    assert_eq!(run(Report::Update, late, late - RUNS, None), (vec![late], vec![6], 1));
    assert_eq!(run(Report::Milestone, late, late - RUNS, None), (vec![late], vec![6], 1));
    let (later, after) = (late + 2 * RUNS, late);
    assert_eq!(run(Report::Update, later, after, None), (vec![later], vec![6], 1));
    assert_eq!(run(Report::Update, later, before, Some(later)), (vec![later], vec![6], 1));
}

#[test]
fn a_case_that_was_seen_before_the_register_does_not_wait() {
    let mut reporter = reporter(None);
    reporter.adopt(Arc::default(), 100 * SECOND);
    let began = |handle, seconds| FlowReport { start: seconds * SECOND, ..flow(handle, Report::Update, 200 * SECOND) };
    let mut asked = |batch: &[FlowReport]| {
        go(&mut reporter, batch, |question, report| {
            let seen = Answer { closing: template(" \x07"), ..answer(FIRST_TAG) };
            (Ends { asks_seen: true, ..ends(1) }, if question.known.is_some() { answer(6) } else { seen }, report.start)
        })
    };
    assert_eq!(asked(&[began(1, 50)]).len(), 1);
    assert_eq!(asked(&[began(2, 99)]), [], "before, too");
    assert_eq!(asked(&[began(3, 100)]).len(), 1, "only since");
    assert_eq!(asked(&[began(4, 101)]), []);
    assert_eq!(asked(&[began(2, 150)]), [], "the case that was seen before");
    let mut answered = began(5, 40);
    answered.finding.phase = Phase::Established;
    assert_eq!(asked(&[answered.clone()]).len(), 1);
    answered.start = 150 * SECOND;
    assert_eq!(asked(&[answered]), []);
    let last = said(&mut reporter);
    assert!(last[1].ends_with("1970-01-01 00:01:39 UTC") && last[4].ends_with("1970-01-01 00:01:39 UTC"), "{last:?}");

    // An opening that nobody answered makes no case.
    let unanswered = FlowReport { tag: FIRST_TAG, start: 50 * SECOND, ..attempt(9, Report::Update, 200 * SECOND) };
    go(&mut reporter, &[unanswered], |_, _| (ends(1), answer(FIRST_TAG), 0));
    let case =
        |host| Case::new(IpAddr::from([198, 51, 100, host]), IpAddr::from([203, 0, 113, 10]), Protocol::WireGuard);
    assert_eq!((reporter.first_seen(case(9), 120), reporter.first_seen(case(2), 120 * SECOND)), (120, 99 * SECOND));
    reporter.end();
    assert_eq!(reporter.first_seen(case(2), 120 * SECOND), 120 * SECOND);
}

#[test]
fn the_first_flag_of_a_case_says_so_and_what_is_counted_does_too() {
    let mut reporter = reporter(None);
    let batch = |time| [flow(1, Report::Recognised, time), flow(2, Report::Recognised, time)];
    let firsts = |reporter: &mut Reporter, batch: &[FlowReport], answer: &Answer| -> Vec<bool> {
        go_on(reporter, batch, answer);
        let told: Vec<_> = reporter.take_counts().told.iter().map(|told| told.first).collect();
        let lines: Vec<_> = said(reporter).iter().map(|line| line.contains("first of")).collect();
        assert_eq!(told, lines);
        told
    };
    assert_eq!(firsts(&mut reporter, &batch(9), &flagged(5)), [true, true]);
    assert_eq!(firsts(&mut reporter, &batch(10), &flagged(5)), [false, false]);
    assert_eq!(firsts(&mut reporter, &batch(cases::DAY + 9), &flagged(5)), [true, true]);
    reporter.end();
    assert_eq!(firsts(&mut reporter, &batch(11), &flagged(5)), [true, true]);
    // A flag that goes on is no new one, and neither makes nor uses up a first.
    reporter.end();
    reporter.forget();
    let goes_on = Answer { newly_flagged: false, ..flagged(5) };
    assert_eq!(firsts(&mut reporter, &batch(12), &goes_on), [false, false]);
    reporter.forget();
    assert_eq!(firsts(&mut reporter, &batch(13), &flagged(5)), [true, true]);
}

#[test]
fn the_subject_is_the_end_that_the_answer_is_about() {
    let mut reporter = reporter(None);
    let destination = |_: &Question, _: &FlowReport| (Ends { subject_answers: true, ..ends(1) }, flagged(5), 0);
    // Two clients of one server, which is the subject: two cases. The server's own flow to one of them is one of those.
    let back = FlowReport { protocol: Protocol::WireGuard, ..report("203.0.113.10:51820", "198.51.100.2:40000") };
    go(&mut reporter, &[flow(1, Report::Recognised, 9), flow(2, Report::Recognised, 9)], destination);
    reporter.forget();
    go(&mut reporter, &[FlowReport { time: 10, ..back }], |_, _| (ends(1), flagged(5), 0));
    let told = reporter.take_counts().told;
    assert_eq!(told.iter().map(|told| told.first).collect::<Vec<_>>(), [true, true, false]);
    assert!(told.iter().all(|told| told.subject == IpAddr::from([203, 0, 113, 10])));
}

#[test]
fn lines_are_given_when_there_are_many_and_none_is_lost() {
    let mut reporter = reporter(None);
    // To and fro: the clock of packets does not, but nothing here relies on it.
    let time = |handle: u64| if handle.is_multiple_of(2) { 100 + handle as i64 } else { 100 - handle as i64 };
    let batch: Vec<_> = (1..=40).map(|handle| flow(handle, Report::Update, time(handle))).collect();
    let wide = Answer { middle: template(&" ".repeat(30_000)), ..answer(FIRST_TAG) };
    reporter.begin(b"");
    let (mut stops, mut all) = (Vec::new(), Vec::new());
    while stops.last() != Some(&Stop::Done) {
        let stop = reporter.go_on(&batch);
        if stop == Stop::Question {
            assert!(reporter.learn(Some(Arc::new(ends(1))), Some(b"."), Arc::new(wide.clone()), 0));
            continue;
        }
        stops.push(stop);
        let (text, written, times) = reporter.lines();
        assert!(text.len() < FULL + 31_000);
        assert_eq!(written.last().map(|line| line.end), Some(text.len()));
        assert!(written.iter().all(|line| line.counted == 3 && !line.ended));
        let given: Vec<_> = written.iter().map(|line| line.flow_id).collect();
        let latest = given.iter().map(|&handle| time(handle)).max();
        assert_eq!(times, Some((time(given[0]), latest.expect("a time"))));
        all.push(given);
        reporter.clear_lines();
    }
    assert_eq!(stops, [Stop::Full, Stop::Full, Stop::Full, Stop::Full, Stop::Done]);
    assert_eq!((all[0].len(), all.concat()), (9, (1..=40).collect()));
    assert_eq!(reporter.lines().2, None);
}

#[test]
fn what_was_not_asked_or_is_of_unknown_ends_is_not_learnt() {
    let mut reporter = reporter(None);
    let (ends, answer) = (Arc::new(ends(1)), Arc::new(answer(FIRST_TAG)));
    assert!(!reporter.learn(Some(Arc::clone(&ends)), None, Arc::clone(&answer), 0));
    let batch = [flow(1, Report::Update, 9)];
    reporter.begin(b"");
    assert!(reporter.question(&batch).is_none());
    assert_eq!(reporter.go_on(&batch), Stop::Question);
    assert!(!reporter.learn(None, Some(b"."), Arc::clone(&answer), 0));
    assert_eq!(reporter.size(), (0, 0));
    // Asked again, and answered this time.
    assert_eq!(reporter.go_on(&batch), Stop::Question);
    assert!(reporter.learn(Some(ends), Some(b"."), answer, 0));
    assert_eq!((reporter.go_on(&batch), reporter.size()), (Stop::Done, (1, 1)));
}

#[test]
fn networks_by_the_length_of_their_prefix() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (host, ipv4, ipv6, expected) in [
        ("192.0.2.201", 24, 48, "192.0.2.0"),
        ("192.0.2.201", 32, 48, "192.0.2.201"),
        ("192.0.2.201", 31, 48, "192.0.2.200"),
        ("192.0.2.201", 0, 48, "0.0.0.0"),
        ("2001:db8:1:2::3", 24, 48, "2001:db8:1::"),
        ("2001:db8:1:2::3", 24, 128, "2001:db8:1:2::3"),
        ("2001:db8:1:2::3", 24, 0, "::"),
    ] {
        assert_eq!(network(address(host), ipv4, ipv6), address(expected), "{host} {ipv4} {ipv6}");
    }
    assert_eq!(ip_address(&[192, 0, 2, 1]), address("192.0.2.1"));
    let IpAddr::V6(ipv6) = address("2001:db8::1") else { panic!("an IPv4 address") };
    assert_eq!(ip_address(&ipv6.octets()), address("2001:db8::1"));
    assert_eq!(ip_address(&[1, 2, 3]), address("0.0.0.0"), "no address");
}
