//! The bounded run that is part of the tests: every target on its seeds and on mutations of them.
//!
//! The mutations are the same in every run unless `COUNTERSIGN_FUZZ_SEED` says otherwise;
//! `COUNTERSIGN_FUZZ_CASES` is how many there are per target.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::{TARGETS, Target};

/// Inputs longer than this are cut: a smoke has to be quick.
const LONGEST: usize = 4096;

/// What tends to make a difference.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b":",
    b";",
    b",",
    b"/",
    b"//",
    b"/../",
    b"/./",
    b"%2e",
    b"%2f",
    b"%252f",
    b"%5c",
    b"%00",
    b"%3f",
    b"%3b",
    b"..;",
    b"\\",
    b"?",
    b"#",
    b"@",
    b"*",
    b"=",
    b"\"",
    b"'''",
    b"\"\"\"",
    b"[",
    b"]",
    b"[[",
    b"{",
    b"}",
    b"{{",
    b"}}",
    b"_",
    b"-",
    b"&",
    b"0",
    b"1",
    b"-1",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"1e400",
    b"NaN",
    b"+1",
    b"0\r\n\r\n",
    b"5;x=y\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET ",
    b"Host: localhost\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: ",
    b"connection: x-a\n",
    b"origin: null\n",
    b"host: localhost\n",
    b"upgrade: websocket\n",
    b"null",
    b"true",
    b"\"\"",
    b"\xc3\xbc",
    b"\xff",
    b"\xe2\x80\xa8",
    b"upstream.test:8081",
    b"http://",
    b"canary-731946",
];

struct Seed {
    name: String,
    bytes: Vec<u8>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

fn seeds(target: &str) -> Vec<Seed> {
    let entries = std::fs::read_dir(directory().join(target)).expect("the target has seeds");
    let mut seeds: Vec<Seed> = entries
        .map(|entry| {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            Seed { name, bytes: std::fs::read(path).expect("it can be read") }
        })
        .collect();
    seeds.sort_by(|one, other| one.name.cmp(&other.name));
    seeds
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Runs `target` on all of `seeds` and on `cases` mutations of them.
///
/// # Errors
/// With the first input that breaks it, ready to become a seed.
fn run(name: &str, target: Target, seeds: &[Seed], cases: u64, random: u64) -> Result<(), String> {
    assert!(!seeds.is_empty(), "there are no seeds for {name}");
    let mut rng = Rng::with_seed(random);
    for seed in seeds {
        check(name, target, &format!("the seed {}", seed.name), &seed.bytes)?;
    }
    for case in 0..cases {
        let bytes = mutated(seeds, &mut rng);
        check(name, target, &format!("case {case} of the random seed {random}"), &bytes)?;
    }
    Ok(())
}

fn check(name: &str, target: Target, case: &str, bytes: &[u8]) -> Result<(), String> {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) else { return Ok(()) };
    let why = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why");
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Err(format!(
        "{name} is broken by {case}: {why}\n  {}\nkeep it: echo {hex} | xxd -r -p > \
         fuzz/seeds/{name}/NAME",
        bytes.escape_ascii()
    ))
}

/// A seed with a few changes, some of them taken from another one.
fn mutated(seeds: &[Seed], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(..seeds.len())].bytes.clone();
    bytes.truncate(LONGEST);
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=bytes.len());
        let end = (at + rng.usize(1..=8)).min(bytes.len());
        match rng.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let other = &seeds[rng.usize(..seeds.len())].bytes;
                let from = rng.usize(..=other.len().min(LONGEST));
                let to = (from + rng.usize(1..=64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => bytes.truncate(at),
            _ => {
                let token = TOKENS[rng.usize(..TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// One test per target, so that they run side by side and failures say which one it is.
macro_rules! smoke {
    ($($name:ident: $cases:literal,)*) => {
        const COVERED: &[&str] = &[$(stringify!($name)),*];

        $(mod $name {
            #[test]
            fn holds_for_its_seeds_and_for_mutations_of_them() {
                let name = stringify!($name);
                let cases = super::setting("COUNTERSIGN_FUZZ_CASES", $cases);
                let random = super::setting("COUNTERSIGN_FUZZ_SEED", 1);
                let seeds = super::seeds(name);
                if let Err(broken) = super::run(name, super::super::$name, &seeds, cases, random) {
                    panic!("{broken}");
                }
            }
        })*
    };
}

// How many of them take about half a second without optimisation.
smoke! {
    config: 100,
    content: 2000,
    devices: 1000,
    guard: 5000,
    headers: 2000,
    path: 10000,
    quote: 5000,
    reply: 5000,
    request_head: 2000,
    response_head: 2000,
    rewrite: 5000,
    route: 1000,
    secret: 10000,
    signature: 1000,
    template: 5000,
    times: 10000,
    units: 10000,
    websocket: 5000,
}

/// Every target is run here, can be run by cargo-fuzz, and has a few small seeds.
#[test]
fn every_target_has_seeds_and_a_program() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, COVERED);
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} has no program");
        let program = fuzz.join("fuzz_targets").join(name).with_extension("rs");
        let program = std::fs::read_to_string(program).unwrap();
        assert!(program.contains(&format!("countersign::fuzzing::{name}(bytes)")), "{name}");
        assert!(seeds(name).len() >= 10, "{name} has few seeds");
    }
    let mut total = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&&*name), "{name} is no target");
        total += seeds(&name).iter().map(|seed| seed.bytes.len()).sum::<usize>();
    }
    assert!(total < 300_000, "the seeds take {total} bytes");
}

mod runner {
    use super::*;

    fn seed(bytes: &[u8]) -> Vec<Seed> {
        vec![Seed { name: "first".to_owned(), bytes: bytes.to_vec() }]
    }

    /// The bytes that a failure prints, read back.
    fn printed(failure: &str) -> Vec<u8> {
        let hex = failure.split_once("echo ").unwrap().1.split_once(' ').unwrap().0;
        hex::decode(hex).unwrap()
    }

    #[test]
    fn a_seed_that_breaks_a_target_is_reported_with_its_bytes() {
        let broken: Target = |bytes| assert!(!bytes.contains(&0xff), "there is a 0xff");
        let failure = run("broken", broken, &seed(b"a'\xff\n"), 0, 1).unwrap_err();
        assert!(failure.contains("the seed first: there is a 0xff"), "{failure}");
        assert!(failure.contains("fuzz/seeds/broken/NAME"), "{failure}");
        assert_eq!(printed(&failure), b"a'\xff\n");
        assert!(run("fine", broken, &seed(b"a"), 0, 1).is_ok());
    }

    #[test]
    fn a_mutation_that_breaks_a_target_is_found_again_with_its_number() {
        let broken: Target = |bytes| {
            let found = bytes.windows(3).any(|window| window == b"%2f");
            assert!(!found, "there is an encoded slash");
        };
        let failure = run("broken", broken, &seed(b"/a/b"), 10_000, 7).unwrap_err();
        let input = printed(&failure);
        assert!(input.windows(3).any(|window| window == b"%2f"), "{failure}");
        assert_eq!(run("broken", broken, &seed(b"/a/b"), 10_000, 7).unwrap_err(), failure);
    }
}
