//! `generators`: prints what the fingerprints make of made-up flows, as Markdown tables. Status 1: something was
//! confirmed that must not be, or a rule's positive control was not recognised. Status 2: usage.

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use vpn_classifier_core::fingerprint::Confidence;
use vpn_classifier_generators::bound::upper_bound;
use vpn_classifier_generators::measure::{Count, Generator, Kind, generators, measure};

const USAGE: &str = "usage: generators [--datagrams N] [--seed S] [--only NAME] [--threads N]

  --datagrams N   datagrams and segments of streams in all, as 1000000 or 1e9 (1e6)
  --seed S        from which everything is drawn (1)
  --only NAME     generators whose name contains this
  --threads N     threads (as many as there are processors)";

struct Options {
    datagrams: u64,
    seed: u64,
    only: String,
    threads: usize,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| matches!(argument.as_str(), "-h" | "--help")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<Generator> =
        generators().into_iter().filter(|generator| generator.name.contains(&options.only)).collect();
    if chosen.is_empty() {
        eprintln!("--only {}: no generator has this in its name", options.only);
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let shown = std::io::stderr().is_terminal();
    let progress = |done: u64| {
        if shown {
            eprint!(
                "\r{:5.1} % of {:.0e} datagrams",
                100.0 * done as f64 / options.datagrams as f64,
                options.datagrams as f64
            );
        }
    };
    let counts = measure(&chosen, options.datagrams, options.seed, options.threads, &progress);
    let seconds = began.elapsed().as_secs_f64();
    let done: u64 = counts.iter().map(|count| count.datagrams).sum();
    if shown {
        eprintln!();
    }
    print!("{}", report(&chosen, &counts));
    eprintln!(
        "{done} datagrams in {seconds:.1} s on {} threads: {:.0} ns of a thread's time each",
        options.threads,
        1e9 * seconds * options.threads as f64 / done.max(1) as f64
    );
    let mut status = ExitCode::SUCCESS;
    for (generator, count) in chosen.iter().zip(&counts) {
        if !generator.holds(count) {
            status = ExitCode::FAILURE;
            explain(generator, count, options.seed);
        }
    }
    status
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { datagrams: 1_000_000, seed: 1, only: String::new(), threads };
    while let Some(argument) = arguments.next() {
        let Some(value) = arguments.next() else { return Err(format!("{argument}: expected a value")) };
        let number = || whole_number(&value).ok_or_else(|| format!("{argument} {value}: expected a whole number"));
        match argument.as_str() {
            "--datagrams" => options.datagrams = number()?.max(1),
            "--seed" => options.seed = number()?,
            "--threads" => options.threads = number()?.clamp(1, 1_024) as usize,
            "--only" => options.only = value,
            _ => return Err(format!("{argument}: no such option")),
        }
    }
    Ok(options)
}

/// A whole number, also as 1e9 or 1_000.
fn whole_number(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => {
            digits.parse::<u64>().ok()?.checked_mul(10_u64.checked_pow(exponent.parse().ok()?)?)
        }
        None => text.parse().ok(),
    }
}

/// The tables.
fn report(generators: &[Generator], counts: &[Count]) -> String {
    let mut text = String::new();
    let pairs = || generators.iter().zip(counts);
    for (title, wanted) in [("Look-alikes", Kind::LookAlike), ("Near misses", Kind::NearMiss)] {
        let rows: Vec<_> = pairs().filter(|(generator, _)| generator.kind == wanted).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "### {title}\n\n\
             | generator | what differs | flows | datagrams | possible | likely | confirmed \
             | possible or more, at most | likely or more, at most | confirmed, at most |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        );
        let mut total = Count::default();
        for (generator, count) in &rows {
            row(&mut text, generator.name, generator.differs, count);
            total.flows += count.flows;
            total.datagrams += count.datagrams;
            for (sum, value) in total.levels.iter_mut().zip(count.levels) {
                *sum += value;
            }
        }
        row(&mut text, "**all**", "", &total);
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "Levels are the highest that a flow reached; bounds are one-sided, 95 %, exact (Clopper-Pearson).\n"
    );
    let exceptions: Vec<_> = pairs().filter_map(|(generator, _)| Some((generator, generator.exception?))).collect();
    for (generator, reason) in &exceptions {
        let _ = writeln!(text, "- {}, {}: may be confirmed: {reason}", generator.name, generator.differs);
    }
    if !exceptions.is_empty() {
        text.push('\n');
    }
    evidence(
        &mut text,
        &pairs().filter(|(generator, _)| !matches!(generator.kind, Kind::Control(_))).collect::<Vec<_>>(),
    );
    controls(&mut text, &pairs().collect::<Vec<_>>());
    text
}

fn row(text: &mut String, name: &str, differs: &str, count: &Count) {
    let bound = |level| upper_bound(count.reached(level), count.flows);
    let [possible, likely, confirmed] = count.levels;
    let _ = writeln!(
        text,
        "| {name} | {differs} | {} | {} | {possible} | {likely} | {confirmed} | {:.1e} | {:.1e} | {:.1e} |",
        count.flows,
        count.datagrams,
        bound(Confidence::Possible),
        bound(Confidence::Likely),
        bound(Confidence::Confirmed),
    );
}

/// By which evidence flows became likely or more: the three commonest sets of each generator.
fn evidence(text: &mut String, pairs: &[(&Generator, &Count)]) {
    if pairs.iter().all(|(_, count)| count.evidence.is_empty()) {
        return;
    }
    let _ = writeln!(
        text,
        "### By which evidence\n\n| generator | what differs | level | flows | evidence |\n|---|---|---|--:|---|"
    );
    for (generator, count) in pairs {
        let mut sets: Vec<_> = count.evidence.iter().collect();
        sets.sort_by_key(|((confidence, _), flows)| std::cmp::Reverse((*confidence, **flows)));
        for ((confidence, ids), flows) in sets.into_iter().take(3) {
            let (name, differs) = (generator.name, generator.differs);
            let _ = writeln!(text, "| {name} | {differs} | {} | {flows} | {} |", confidence.name(), ids.join(", "));
        }
    }
    text.push('\n');
}

fn controls(text: &mut String, pairs: &[(&Generator, &Count)]) {
    let rows: Vec<_> = pairs
        .iter()
        .filter_map(|(generator, count)| match generator.kind {
            Kind::Control(level) => Some((generator, count, level)),
            _ => None,
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "### Positive controls\n\n| rule | wanted | flows | reached it |\n|---|---|--:|--:|");
    for (generator, count, level) in rows {
        let _ =
            writeln!(text, "| {} | {} | {} | {} |", generator.name, level.name(), count.flows, count.reached(level));
    }
    text.push('\n');
}

/// The first flow that is not as it must be: enough to write a test from.
fn explain(generator: &Generator, count: &Count, seed: u64) {
    let wrong = match generator.kind {
        Kind::Control(level) => {
            format!("{} of {} flows did not reach {}", count.flows - count.reached(level), count.flows, level.name())
        }
        _ => format!("{} of {} flows were confirmed", count.reached(Confidence::Confirmed), count.flows),
    };
    eprintln!("\n{} ({}): {wrong}. The first:", generator.name, generator.differs);
    let Some(first) = count.first else { return };
    let (verdict, sent) = generator.again(seed, first);
    for (confidence, evidence) in verdict.confidence.iter().zip(&verdict.evidence) {
        if let Some(confidence) = confidence {
            eprintln!("  {}: {}", confidence.name(), evidence.join(", "));
        }
    }
    for packet in sent.iter().take(12) {
        let mut head = String::new();
        for byte in packet.payload.iter().take(40) {
            let _ = write!(head, "{byte:02x}");
        }
        let [source, destination] = packet.ports;
        eprintln!(
            "  {:8.3} s  {source:5} {} {destination:5}  {:4} bytes  {head}",
            packet.time as f64 / 1e9,
            if packet.direction == 0 { "->" } else { "<-" },
            packet.payload.len()
        );
    }
    if sent.len() > 12 {
        eprintln!("  ... {} in all", sent.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<(u64, u64, String), String> {
        options(arguments.iter().map(|argument| (*argument).to_string()))
            .map(|options| (options.datagrams, options.seed, options.only))
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parsed(&[]), Ok((1_000_000, 1, String::new())));
        assert_eq!(
            parsed(&["--datagrams", "1e9", "--seed", "7", "--only", "dns"]),
            Ok((1_000_000_000, 7, "dns".into()))
        );
        assert_eq!(parsed(&["--datagrams", "1_000"]).map(|options| options.0), Ok(1_000));
    }

    #[test]
    fn wrong_options_are_named() {
        for (arguments, said) in [
            (&["--datagrams", "many"][..], "--datagrams many: expected a whole number"),
            (&["--datagrams", "9e99"], "--datagrams 9e99: expected a whole number"),
            (&["--seed"], "--seed: expected a value"),
            (&["--speed", "1"], "--speed: no such option"),
        ] {
            assert_eq!(parsed(arguments), Err(said.to_string()));
        }
    }

    #[test]
    fn the_report_has_a_row_for_each_generator_and_its_bounds() {
        let generators = generators();
        let count = Count { flows: 100, datagrams: 300, levels: [5, 0, 0], ..Count::default() };
        let text = report(&generators, &vec![count; generators.len()]);
        assert!(text.contains("| dns | "));
        // 5 of 100 by the exact bound; none of 100 by 1 - 0.05^(1/100).
        assert!(text.contains("| 100 | 300 | 5 | 0 | 0 | 1.0e-1 | 3.0e-2 | 3.0e-2 |"), "{text}");
        assert!(text.contains("| ipsec.ah | confirmed | 100 | 0 |"));
    }
}
