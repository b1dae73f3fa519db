//! Reading a path the way a careless server might, to see whether it means something else there.
//!
//! Requests are forwarded byte for byte. What an upstream makes of `%2e%2e`, `//`, `\` or `..;` is
//! its own affair, so a path is matched as it is written, as the most generous server would read it,
//! and, where servers may disagree, in every way between. Only if all readings agree is there no
//! doubt about which route it belongs to.

use std::borrow::Cow;

use crate::config::DenyPattern;

/// The most layers of percent-encoding that are taken off.
const LAYERS: usize = 3;

/// Stands between segments, also when they have slashes in them. What has a NUL of its own was refused.
const BETWEEN: &str = "\0";

/// The most places in a path where servers may disagree. Every reading costs as much as the path is
/// long, so a path that has many of both would cost too much.
const PLACES: usize = 64;

/// A path that cannot be read in one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousPath {
    /// A `%` without two hexadecimal digits.
    #[error("a '%' without two hexadecimal digits")]
    Percent,
    /// A NUL, plain or encoded.
    #[error("an encoded NUL")]
    Nul,
    /// A character that is encoded longer than it has to be, such as `%c0%af` for a slash.
    #[error("an overlong encoding")]
    Overlong,
    /// Encoded again and again.
    #[error("more than three layers of percent-encoding")]
    Layers,
    /// Too many places that are read in different ways.
    #[error("more than 64 places that servers read in different ways")]
    Places,
    /// More `..` than there are segments.
    #[error("'..' beyond the root")]
    AboveRoot,
    /// Two readings lead to different routes.
    #[error("it can be read as belonging to another route")]
    Routes,
}

/// The path as a generous server reads it: decoded until nothing is left to decode, `\` as `/`,
/// path parameters (`;…`) cut off, empty and dot segments resolved.
///
/// Borrowed where that changes nothing, which is nearly always.
///
/// # Errors
/// When there is no such reading.
pub fn generous_reading(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    let mut before = 0;
    let plain = path.bytes().all(|byte| {
        let pair = (std::mem::replace(&mut before, byte), byte);
        !matches!(pair, (_, b'%' | b'\\' | b';') | (b'/', b'/' | b'.'))
    });
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    let mut bytes = path.as_bytes().to_vec();
    for layer in 0.. {
        if !bytes.contains(&b'%') {
            break;
        }
        if layer == LAYERS {
            return Err(AmbiguousPath::Layers);
        }
        // A '%' that was itself encoded may stand for itself; only the first layer must be valid.
        match decode(&bytes, layer == 0)? {
            Some(decoded) => bytes = decoded,
            None => break,
        }
    }
    if bytes.contains(&0) {
        return Err(AmbiguousPath::Nul);
    }
    // Some servers take it for the character that it pretends to be (RFC 3629 §10).
    if bytes.windows(2).any(|pair| matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf])) {
        return Err(AmbiguousPath::Overlong);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        // Encoded, '?' and '#' end the path for servers that decode first and split afterwards.
        match segment.split([';', '?', '#']).next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(AmbiguousPath::AboveRoot)?;
            }
            name => segments.push(name),
        }
    }
    Ok(Cow::Owned(format!("/{}", segments.join("/"))))
}

/// Tells `visit` what servers make of `path`, each in its own way: they decode more or less often,
/// before or after they split, take `\` for `/` or not, cut off path parameters before or after
/// decoding, end at an encoded `?` or not, and count empty segments or not. A slash inside a segment
/// is given as `%2f`. One reading may be told more than once.
///
/// The most generous reading alone is not enough to keep a path closed: what it takes back by a `..`
/// that others do not see is where those others arrive.
///
/// They are told one by one, not collected: a long path has more than a hundred, each as long.
///
/// # Errors
/// When one of them leads out of the root, there are too many or none at all, or `visit` says so.
pub fn each_reading(
    path: &str,
    mut visit: impl FnMut(&str) -> Result<(), AmbiguousPath>,
) -> Result<(), AmbiguousPath> {
    visit(&generous_reading(path)?)?;
    if !has_readings(path)? {
        return Ok(());
    }
    let mut told = |text: &str| {
        for parameters in variants(text.contains(';')) {
            let may_be_empty = parameters || text.starts_with('/') || text.contains("//");
            for empty in variants(may_be_empty) {
                visit(&resolve(text, parameters, empty)?)?;
            }
        }
        Ok(())
    };
    for slashes in variants(path.contains('\\')) {
        let text = if slashes { path.replace('\\', "/") } else { path.to_owned() };
        for parameters in variants(path.contains(';')) {
            let segments = text.split('/').skip(1);
            let segments = segments.map(|one| if parameters { bare(one) } else { one });
            let mut segments = segments.collect::<Vec<_>>().join(BETWEEN).into_bytes();
            for _ in 0..=LAYERS {
                each_joining(&segments, &mut told)?;
                match decode(&segments, false)? {
                    Some(decoded) => segments = decoded,
                    None => break,
                }
            }
        }
    }
    Ok(())
}

/// Both ways of doing something, or only the one that does not do it where it makes no difference.
fn variants(differs: bool) -> impl Iterator<Item = bool> {
    [false, true].into_iter().take(if differs { 2 } else { 1 })
}

/// Tells what becomes of decoded segments when they are put together: slashes in them count or not,
/// and so do backslashes, and `?` and `#` end the path or not.
fn each_joining(
    segments: &[u8],
    told: &mut impl FnMut(&str) -> Result<(), AmbiguousPath>,
) -> Result<(), AmbiguousPath> {
    let segments = String::from_utf8_lossy(segments);
    if segments.contains('/') {
        told(&segments.replace('/', "%2f").replace(BETWEEN, "/"))?;
    }
    let joined = segments.replace(BETWEEN, "/");
    for slashes in variants(joined.contains('\\')) {
        let text = if slashes { joined.replace('\\', "/").into() } else { Cow::Borrowed(&*joined) };
        told(&text)?;
        if let Some((ended, _)) = text.split_once(['?', '#']) {
            told(ended)?;
        }
    }
    Ok(())
}

/// A segment without its parameters.
fn bare(segment: &str) -> &str {
    segment.split(';').next().unwrap_or_default()
}

/// True if servers may disagree on `path`. Where decoding yields nothing that has a meaning in a path,
/// the generous reading is the only one beside the path itself.
///
/// # Errors
/// When they may in more places than any honest path has.
fn has_readings(path: &str) -> Result<bool, AmbiguousPath> {
    let meaning = |after: &str| match after.get(..2).map(|digits| u8::from_str_radix(digits, 16)) {
        Some(Ok(byte)) => b"/\\.;?#%".contains(&byte),
        Some(Err(_)) | None => true,
    };
    let places = path.matches(['\\', ';']).count()
        + path.matches("//").count()
        + path.matches("/.").count()
        + path.split('%').skip(1).filter(|after| meaning(after)).count();
    if places > PLACES {
        return Err(AmbiguousPath::Places);
    }
    Ok(places > 0)
}

/// The path that the segments of `text` lead to, without their parameters or with them, empty ones
/// counted or not.
fn resolve(text: &str, parameters: bool, empty: bool) -> Result<String, AmbiguousPath> {
    let mut path = String::with_capacity(text.len() + 1);
    for segment in text.split('/') {
        match if parameters { bare(segment) } else { segment } {
            "" if !empty => {}
            "." => {}
            ".." => path.truncate(path.rfind('/').ok_or(AmbiguousPath::AboveRoot)?),
            name => {
                path.push('/');
                path.push_str(name);
            }
        }
    }
    if path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// One layer decoded; `None` if there was nothing to decode.
fn decode(bytes: &[u8], strict: bool) -> Result<Option<Vec<u8>>, AmbiguousPath> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut changed = false;
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().and_then(|pair| {
            let text = std::str::from_utf8(pair).ok()?;
            let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit());
            hexadecimal.then(|| u8::from_str_radix(text, 16).ok()).flatten()
        });
        match (first, digits) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                changed = true;
                rest = after.get(2..).unwrap_or_default();
            }
            (b'%', None) if strict => return Err(AmbiguousPath::Percent),
            (byte, _) => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    Ok(changed.then_some(decoded))
}

/// `path` without `prefix`, if it begins with it and the next character begins a segment: what the
/// route table has to agree with.
#[cfg(test)]
pub(super) fn strip_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl DenyPattern {
    /// True if the path `base` + `rest` is covered: the pattern's segments are its first ones, or,
    /// after a leading `**`, stand one after the other anywhere in it.
    pub fn covers(&self, base: &str, rest: &str) -> bool {
        let Self(pattern) = self;
        let mut segments = Segments { base, rest };
        match pattern.split_first() {
            Some((first, pattern)) if first == "**" => loop {
                if begin_with(segments.clone(), pattern) {
                    return true;
                }
                if segments.next().is_none() {
                    return false;
                }
            },
            _ => begin_with(segments, pattern),
        }
    }
}

/// The segments of two paths, one after the other, empty ones left out.
#[derive(Clone)]
struct Segments<'s> {
    base: &'s str,
    rest: &'s str,
}

impl<'s> Iterator for Segments<'s> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        loop {
            if self.base.is_empty() {
                if self.rest.is_empty() {
                    return None;
                }
                self.base = std::mem::take(&mut self.rest);
            }
            let end = self.base.bytes().position(|byte| byte == b'/').unwrap_or(self.base.len());
            let (segment, after) = self.base.split_at_checked(end)?;
            self.base = after.strip_prefix('/').unwrap_or_default();
            if !segment.is_empty() {
                return Some(segment);
            }
        }
    }
}

fn begin_with(mut segments: Segments<'_>, pattern: &[String]) -> bool {
    let mut wanted = pattern.iter().filter(|one| !one.is_empty());
    wanted.all(|wanted| segments.next().is_some_and(|segment| matches(segment, wanted)))
}

/// True if a segment is the wanted one; a `*` at the end of that stands for any ending.
fn matches(segment: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        None => segment.eq_ignore_ascii_case(wanted),
        Some(beginning) => segment
            .as_bytes()
            .get(..beginning.len())
            .is_some_and(|begun| begun.eq_ignore_ascii_case(beginning.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn readings(path: &str) -> Result<BTreeSet<String>, AmbiguousPath> {
        let mut readings = BTreeSet::new();
        each_reading(path, |reading| {
            readings.insert(reading.to_owned());
            Ok(())
        })?;
        Ok(readings)
    }

    #[test]
    fn ordinary_paths_are_read_as_they_are_without_copying() {
        for path in ["/", "/v3/localization", "/domain/child@parent", "/a:b/c~d/$x,+=", "/a/b/"] {
            assert!(matches!(generous_reading(path), Ok(Cow::Borrowed(same)) if same == path));
        }
    }

    #[test]
    fn every_disguise_of_a_path_is_seen_through() {
        let disguises = [
            ("/a/%2e%2e/b", "/b"),
            ("/a/..;x=1/b", "/b"),
            ("/a/%252e%252e/b", "/b"),
            ("/a%2fb", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/a%5c..%5cb", "/b"),
            ("//a///b", "/a/b"),
            ("/./a/./b", "/a/b"),
            ("/v3/%61uthorization", "/v3/authorization"),
            ("/v3/authorization;x/token", "/v3/authorization/token"),
            ("/v3/authorization%3Fx/token", "/v3/authorization/token"),
        ];
        for (written, read) in disguises {
            assert_eq!(generous_reading(written).unwrap(), read, "{written}");
        }
    }

    #[test]
    fn paths_without_a_single_reading_are_refused() {
        assert_eq!(generous_reading("/a%zz"), Err(AmbiguousPath::Percent));
        assert_eq!(generous_reading("/a%"), Err(AmbiguousPath::Percent));
        assert_eq!(generous_reading("/a%00"), Err(AmbiguousPath::Nul));
        assert_eq!(generous_reading("/%c0%ae%C0%AE/a"), Err(AmbiguousPath::Overlong));
        assert_eq!(generous_reading("/caf%E9/%c0").map(|_| ()), Ok(()), "another character set");
        assert_eq!(generous_reading("/../a"), Err(AmbiguousPath::AboveRoot));
        assert_eq!(generous_reading("/%25252541"), Err(AmbiguousPath::Layers));
    }

    #[test]
    fn an_encoded_percent_sign_is_fine() {
        assert_eq!(generous_reading("/100%25").unwrap(), "/100%");
    }

    #[test]
    fn what_other_servers_arrive_at_is_among_the_readings() {
        for (written, elsewhere) in [
            // Parameters are cut off before decoding.
            ("/v3/%61uthorization/token;%2f..%2f..%2fb", "/v3/authorization/token"),
            // It is decoded before the query is looked for.
            ("/v3/%61uthorization/token%3f/../../b", "/v3/authorization/token"),
            // An encoded slash is part of a name.
            ("/x%2fy/../../z", "/z"),
            ("/y/x%2fz/%73ecret", "/y/x%2fz/secret"),
            // It is decoded once.
            ("/a/%2e%2e/secret/%252e%252e/b", "/secret/%2e%2e/b"),
            // Empty segments count.
            ("/%73ecret//../x", "/secret/x"),
            ("/a\\b/..", "/a"),
        ] {
            match readings(written) {
                Ok(readings) => assert!(readings.contains(elsewhere), "{written}: {readings:?}"),
                Err(error) => assert_eq!(error, AmbiguousPath::AboveRoot, "{written}"),
            }
        }
        assert_eq!(readings("/x%2fy/../../../z"), Err(AmbiguousPath::AboveRoot));
        assert_eq!(readings("/a%20b/%41").unwrap(), BTreeSet::from(["/a b/A".to_owned()]));
    }

    #[test]
    fn a_path_with_too_many_doubtful_places_is_refused_before_it_costs_anything() {
        let many = |mark: &str, count: usize| format!("/t{}", mark.repeat(count));
        for mark in ["/", ";a", "\\", "%2f", "/.", "%3b"] {
            assert_eq!(readings(&many(mark, 10_000)), Err(AmbiguousPath::Places), "{mark}");
        }
        // However long, it is plain, or has few such places.
        assert_eq!(readings(&many("/a%C3%A9", 2_000)).unwrap().len(), 1);
        let mut told = 0;
        let worst = format!(
            "{}/x\\y;z/%25255c%25253b/%255c%253b/%5c%3b/%25252f/q%25253f",
            many("/a", 2_000)
        );
        each_reading(&worst, |_| {
            told += 1;
            Ok(())
        })
        .unwrap();
        assert!((100..1_000).contains(&told), "{told}");
    }

    #[test]
    fn a_prefix_ends_on_a_segment_boundary() {
        assert_eq!(strip_prefix("/devo/x", "/devo"), Some("/x"));
        assert_eq!(strip_prefix("/devo", "/devo"), Some(""));
        assert_eq!(strip_prefix("/devotion", "/devo"), None);
        assert_eq!(strip_prefix("/x", ""), Some("/x"));
    }

    #[test]
    fn patterns_cover_everything_below_and_nothing_beside() {
        let pattern = DenyPattern(vec!["*".into(), "authorization".into()]);
        assert!(pattern.covers("", "/v3/authorization"));
        assert!(pattern.covers("", "/v3.0/Authorization/Authenticate"));
        assert!(pattern.covers("/v3", "/AUTHORIZATION/token"));
        assert!(!pattern.covers("", "/v3/authorizations"));
        assert!(!pattern.covers("", "/authorization"));
        assert!(!pattern.covers("", "/v3"));
    }

    #[test]
    fn two_stars_stand_for_any_number_of_segments() {
        let pattern = DenyPattern(vec!["**".into(), "v*".into(), "authorization".into()]);
        assert!(pattern.covers("", "/v3/authorization"));
        assert!(pattern.covers("/a/b/c", "/d/e/V3.0/Authorization/token"));
        assert!(!pattern.covers("", "/v3/devices/login/authorization"));
        assert!(!pattern.covers("", "/authorization"));
        assert!(DenyPattern(vec!["**".into()]).covers("", "/"), "everything");
    }
}
