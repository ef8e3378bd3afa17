//! A decompressor alone: unpacks a gzip or zstd file to nothing, by the libraries that the product uses.
//!
//! `unpack FILE` prints how many octets were in it. One gzip member or zstd frame, as the commands write them.

use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Octets read, and given, at once.
const BLOCK: usize = 1 << 18;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: unpack FILE.gz|FILE.zst");
        return ExitCode::from(2);
    };
    match File::open(&path).and_then(|file| unpack(file, path.to_string_lossy().ends_with(".gz"))) {
        Ok(octets) => {
            println!("{octets}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("unpack: {}: {error}", path.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

fn unpack(mut file: File, gzip: bool) -> io::Result<u64> {
    let (mut input, mut output) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut inflate = Decompress::new_gzip(15);
    let mut zstd = Decoder::new()?;
    let mut octets = 0;
    loop {
        let read = file.read(&mut input)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut used = 0;
        loop {
            let (consumed, given, ended) = if gzip {
                let before = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(&input[used..read], &mut output, FlushDecompress::None)?;
                let (from, to) = (inflate.total_in() - before.0, inflate.total_out() - before.1);
                (from as usize, to as usize, status == Status::StreamEnd)
            } else {
                let mut from = InBuffer::around(&input[used..read]);
                let mut to = OutBuffer::around(output.as_mut_slice());
                let hint = zstd.run(&mut from, &mut to)?;
                (from.pos(), to.pos(), hint == 0)
            };
            used += consumed;
            octets += given as u64;
            if ended {
                return Ok(octets);
            }
            if used == read && given < BLOCK {
                break;
            }
        }
    }
}
