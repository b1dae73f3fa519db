//! Durations, sizes and shares as people write them.

use std::time::Duration;

use jiff::SignedDuration;

use crate::credential::schedule::Span;

/// The longest duration that can be configured: clocks cannot count on for ever.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// `"30s"`, `"5m"`, `"1h 30m"`, `"250ms"`.
///
/// # Errors
/// With what is wrong, for a person.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("\"{text}\" is not a duration such as \"30s\", \"5m\" or \"250ms\"");
    let signed: SignedDuration = text.trim().parse().map_err(|_| expected())?;
    let duration = Duration::try_from(signed).map_err(|_| expected())?;
    if duration > LONGEST {
        return Err(format!("\"{text}\" is longer than ten years"));
    }
    if duration.is_zero() {
        Err("a duration of zero never ends well".to_owned())
    } else {
        Ok(duration)
    }
}

/// `65536`, `"64KiB"`, `"1MiB"`, `"2GB"`.
///
/// # Errors
/// With what is wrong, for a person.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        _ => {
            return Err(format!("\"{text}\" is not a size such as 65536, \"64KiB\" or \"1GB\""));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is not a size such as 65536, \"64KiB\" or \"1GB\""))?;
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// A duration or a share of a lifetime: `"5m"`, `"10%"`.
///
/// # Errors
/// With what is wrong, for a person.
pub fn span(text: &str) -> Result<Span, String> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return duration(text)
            .map(Span::Duration)
            .map_err(|message| format!("{message}, nor a share of the lifetime such as \"10%\""));
    };
    let share: f64 = percent.trim().parse().map_err(|_| format!("\"{text}\" is not a share"))?;
    if (0.0..=90.0).contains(&share) {
        Ok(Span::Share(share / 100.0))
    } else {
        Err(format!("\"{text}\" is not a share between 0% and 90%"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "30", "soon", "-5s", "0s", "100000h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1 MB"), Ok(1_000_000));
        for wrong in ["", "KiB", "-1", "1.5MiB", "1XB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn margins_are_durations_or_shares() {
        assert_eq!(span("10%"), Ok(Span::Share(0.1)));
        assert_eq!(span("5m"), Ok(Span::Duration(Duration::from_secs(300))));
        for wrong in ["95%", "-1%", "x%", "often"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
