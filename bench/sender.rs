//! Sends the frames of a capture through an interface at a given rate, again and again.
//!
//! `sender CAPTURE INTERFACE [--rate PACKETS_A_SECOND] [--seconds S] [--frames N] [--vary PASSES]` prints one line of
//! JSON: frames and bytes sent, seconds, and the longest delay of a frame behind its time. `--frames` takes the first N
//! frames of the capture only. With `--vary` each pass over them has other IPv4 addresses than the passes before it, so
//! that flows are new ones, until after so many passes the first ones come again (0: as often as there are addresses).
//!
//! The rule a reader would get wrong: a rate that cannot be kept is not caught up with in one burst; what is more than a
//! few milliseconds late is sent as fast as possible, and `rate` says what came of it.

#[path = "packet_socket.rs"]
mod packet_socket;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use packet_socket::PacketSocket;
use vpn_classifier_core::capture::{self, FrameBatch};

/// Frames sent together.
const TOGETHER: usize = 64;
/// How late a frame may be before the schedule begins anew.
const LATE: Duration = Duration::from_millis(5);
const NAP: Duration = Duration::from_micros(50);
/// Where the addresses stand in a frame of Ethernet and IPv4.
const ADDRESSES: std::ops::Range<usize> = 26..34;

struct Arguments {
    capture: String,
    interface: String,
    rate: f64,
    seconds: f64,
    frames: usize,
    /// Passes after which addresses come again; `None`: they stay as they are.
    vary: Option<u32>,
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: sender CAPTURE INTERFACE [--rate N] [--seconds S] [--frames N] [--vary PASSES]");
        return ExitCode::from(2);
    };
    match run(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sender: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let (capture, interface) = (words.next()?, words.next()?);
    let mut arguments =
        Arguments { capture, interface, rate: f64::INFINITY, seconds: 10.0, frames: usize::MAX, vary: None };
    while let Some(option) = words.next() {
        let value = words.next()?;
        match option.as_str() {
            "--rate" => arguments.rate = value.parse().ok().filter(|&rate| rate > 0.0)?,
            "--seconds" => arguments.seconds = value.parse().ok().filter(|&seconds| seconds > 0.0)?,
            "--frames" => arguments.frames = value.parse().ok().filter(|&frames| frames > 0)?,
            "--vary" => arguments.vary = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(arguments)
}

/// All frames, one behind the other.
struct Frames {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Frames {
    fn read(arguments: &Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let mut source = capture::open(Path::new(&arguments.capture))?;
        let (mut bytes, mut ends, mut batch) = (Vec::new(), Vec::new(), FrameBatch::new());
        while ends.len() < arguments.frames && source.fill(&mut batch)? {
            for frame in batch.frames().iter().take(arguments.frames - ends.len()) {
                if frame.captured < frame.original {
                    return Err(format!("{}: a frame that is cut", arguments.capture).into());
                }
                bytes.extend_from_slice(batch.bytes(frame));
                ends.push(bytes.len());
            }
        }
        if ends.is_empty() { Err("no frames".into()) } else { Ok(Self { bytes, ends }) }
    }

    fn range(&self, number: usize) -> std::ops::Range<usize> {
        number.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[number]
    }

    fn frame(&self, number: usize) -> &[u8] {
        &self.bytes[self.range(number)]
    }

    /// Gives a frame other addresses, the same change in both of them. Checksums stay: no sensor looks at them.
    fn change(&mut self, number: usize, mask: u32) {
        let range = self.range(number);
        let frame = &mut self.bytes[range];
        if frame.get(12..14) != Some(&[8, 0]) {
            return;
        }
        if let Some(addresses) = frame.get_mut(ADDRESSES) {
            let [_, a, b, c] = mask.to_be_bytes();
            for (byte, change) in addresses.iter_mut().zip([0, a, b, c, 0, a, b, c]) {
                *byte ^= change;
            }
        }
    }
}

/// What a pass changes in addresses: the low bits of networks first, so that no two passes share a host.
fn mask(pass: u32, vary: Option<u32>) -> u32 {
    let Some(passes) = vary else { return 0 };
    let number = if passes == 0 { pass } else { pass % passes };
    // Host numbers of a load fill its low bits; the highest ones are free.
    number.reverse_bits() >> 8
}

fn run(arguments: &Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let mut frames = Frames::read(arguments)?;
    let socket =
        PacketSocket::open(&arguments.interface).map_err(|error| format!("{}: {error}", arguments.interface))?;
    let (count, limit) = (frames.ends.len(), Duration::from_secs_f64(arguments.seconds));
    let (mut next, mut pass, mut sent, mut bytes, mut worst) = (0_usize, 0_u32, 0_u64, 0_u64, Duration::ZERO);
    let began = Instant::now();
    let (mut since, mut sent_since) = (began, 0_u64);
    while began.elapsed() < limit {
        let waited = since.elapsed();
        let due = (waited.as_secs_f64() * arguments.rate).min(u64::MAX as f64) as u64;
        let ready = due.saturating_sub(sent_since).min(TOGETHER as u64) as usize;
        if ready == 0 {
            std::thread::sleep(NAP);
            continue;
        }
        if arguments.rate.is_finite() {
            let late = waited.saturating_sub(Duration::from_secs_f64(sent_since as f64 / arguments.rate));
            worst = worst.max(late);
            if late > LATE {
                (since, sent_since) = (Instant::now(), 0);
            }
        }
        let end = (next + ready).min(count);
        if arguments.vary.is_some() && pass > 0 {
            let change = mask(pass, arguments.vary) ^ mask(pass - 1, arguments.vary);
            for number in next..end {
                frames.change(number, change);
            }
        }
        let batch: Vec<&[u8]> = (next..end).map(|number| frames.frame(number)).collect();
        send(&socket, &batch)?;
        bytes += batch.iter().map(|frame| frame.len() as u64).sum::<u64>();
        (sent, sent_since) = (sent + (end - next) as u64, sent_since + (end - next) as u64);
        next = end;
        if next == count {
            (next, pass) = (0, pass.wrapping_add(1));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!(
        "{{\"sent\": {sent}, \"bytes\": {bytes}, \"seconds\": {seconds:.3}, \"rate\": {:.0}, \"worst_ms\": {:.1}}}",
        sent as f64 / seconds,
        worst.as_secs_f64() * 1e3
    ))
}

/// Sends all of them; the kernel may ask for patience.
fn send(socket: &PacketSocket, mut frames: &[&[u8]]) -> Result<(), Box<dyn std::error::Error>> {
    while !frames.is_empty() {
        match socket.send(frames) {
            Ok(sent) => frames = &frames[sent..],
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) => {
                std::thread::yield_now();
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err("the interface may not be sent to".into());
            }
            Err(error) => return Err(format!("a frame of {} bytes: {error}", frames[0].len()).into()),
        }
    }
    Ok(())
}
