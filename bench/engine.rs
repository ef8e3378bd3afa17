//! The path of a packet alone: a capture through the engine, without Python. For profilers and instruction counts.
//!
//! `engine FILE [WORKERS]` prints frames, flows begun and reports.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use vpn_classifier_core::engine::{Engine, Settings};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (file, workers) = (arguments.next(), arguments.next().map_or(Ok(1), |text| text.parse()));
    let (Some(file), Ok(workers)) = (file, workers) else {
        eprintln!("usage: engine FILE [WORKERS]");
        return ExitCode::from(2);
    };
    match run(Path::new(&file), workers) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path, workers: usize) -> Result<String, Box<dyn std::error::Error>> {
    let mut engine = Engine::new(Settings { workers, ..Settings::default() })?;
    let reports = replay(&mut engine, file)?;
    let stats: std::collections::BTreeMap<_, _> = engine.stats().into_iter().collect();
    Ok(format!("{} {} {reports}", stats["frames"], stats["flows.created"]))
}

/// What is counted: instructions between its beginning and its end, found by its name (`bench/instructions.py`).
#[inline(never)]
fn replay(engine: &mut Engine, file: &Path) -> Result<usize, Box<dyn std::error::Error>> {
    engine.open(file, "bench")?;
    let mut reports = 0;
    while let Some(some) = engine.poll(Duration::from_secs(1))? {
        reports += some.len();
    }
    Ok(reports)
}
