use super::*;

const SALT: &[u8] = b"a salt";

fn sealer(key: &str) -> Sealer {
    Sealer::new(&Secret::new(key), SALT).unwrap()
}

fn stored() -> Stored {
    let fetched = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    Stored {
        values: Values::from_iter([
            ("token", Secret::new("canary-token")),
            ("refresh_token", Secret::new("canary-refresh ü")),
            ("empty", Secret::new("")),
        ]),
        fetched,
        expires: Some(fetched + Duration::from_secs(3600)),
        lifetime: Some(Duration::from_secs(3600)),
        clock_skew_ms: Some(-250),
    }
}

fn fingerprint(sealer: &Sealer, definition: &str, secrets: &[&str]) -> Fingerprint {
    sealer.fingerprint(definition.as_bytes(), secrets.iter().map(|secret| Some(*secret)))
}

#[test]
fn what_was_sealed_can_be_opened_and_shows_nothing_of_it() {
    let sealer = sealer("0123456789abcdef");
    let place = sealer.place("plant", None);
    let print = fingerprint(&sealer, "d", &["password"]);
    let endless = Stored { expires: None, lifetime: None, clock_skew_ms: None, ..stored() };
    for stored in [stored(), endless] {
        let record = sealer.seal(place, print, &stored, stored.expires).unwrap();
        let text = String::from_utf8_lossy(&record);
        assert!(!text.contains("canary") && !text.contains("token"), "{text}");
        assert_eq!(sealer.open(place, print, &record).unwrap(), stored);
        let until = keep_until(&record).unwrap();
        match stored.expires {
            Some(end) => assert_eq!(until, end),
            None => assert!(until > UNIX_EPOCH + CENTURIES / 2),
        }
        let again = sealer.seal(place, print, &stored, stored.expires).unwrap();
        assert_ne!(record, again, "no nonce is used twice");
    }
    assert!(!format!("{:?} {sealer:?}", stored()).contains("canary"));
}

#[test]
fn a_record_that_was_altered_in_any_bit_is_refused() {
    let sealer = sealer("0123456789abcdef");
    let (place, print) = (sealer.place("plant", None), fingerprint(&sealer, "d", &[]));
    let record = sealer.seal(place, print, &stored(), None).unwrap();
    for bit in 0..record.len() * 8 {
        let mut altered = record.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(sealer.open(place, print, &altered).is_err(), "bit {bit}");
    }
    for length in 0..record.len() {
        assert!(sealer.open(place, print, &record[..length]).is_err(), "{length} bytes");
    }
    let longer = [record.as_slice(), &[0]].concat();
    assert_eq!(sealer.open(place, print, &longer), Err(UnsealError::Refused));
}

#[test]
fn a_record_cannot_be_moved_to_another_credential_or_device() {
    let sealer = sealer("0123456789abcdef");
    let print = fingerprint(&sealer, "d", &[]);
    let places = [
        sealer.place("plant", None),
        sealer.place("plant", Some("")),
        sealer.place("plant", Some("a")),
        sealer.place("planta", None),
        sealer.place("planta", Some("")),
        sealer.place("", Some("planta")),
    ];
    for (index, place) in places.iter().enumerate() {
        let record = sealer.seal(*place, print, &stored(), None).unwrap();
        for (other, elsewhere) in places.iter().enumerate() {
            let opened = sealer.open(*elsewhere, print, &record);
            assert_eq!(opened.is_ok(), index == other, "{index} at {other}");
        }
    }
}

#[test]
fn a_changed_definition_or_secret_makes_a_record_unusable() {
    let sealer = sealer("0123456789abcdef");
    let place = sealer.place("plant", None);
    let print = fingerprint(&sealer, "definition", &["login", "password"]);
    let record = sealer.seal(place, print, &stored(), None).unwrap();
    for (definition, secrets) in [
        ("definition2", &["login", "password"][..]),
        ("definition", &["login", "password2"]),
        ("definition", &["password", "login"]),
        ("definition", &["loginpassword"]),
        ("definition", &["login", "password", ""]),
        ("definitionlogin", &["password"]),
    ] {
        let other = fingerprint(&sealer, definition, secrets);
        assert_eq!(sealer.open(place, other, &record), Err(UnsealError::Refused), "{secrets:?}");
    }
    let absent = sealer.fingerprint(b"d", [None].into_iter());
    assert_ne!(absent, sealer.fingerprint(b"d", [Some("")].into_iter()));
}

#[test]
fn another_key_or_salt_opens_nothing_and_is_recognised() {
    let (right, wrong) = (sealer("0123456789abcdef"), sealer("0123456789abcdeF"));
    let salted = Sealer::new(&Secret::new("0123456789abcdef"), b"another").unwrap();
    let check = right.check().unwrap();
    let (place, print) = (right.place("plant", None), fingerprint(&right, "d", &[]));
    let record = right.seal(place, print, &stored(), None).unwrap();
    assert!(right.is_right(&check));
    for other in [wrong, salted] {
        assert!(!other.is_right(&check));
        assert_eq!(other.open(place, print, &record), Err(UnsealError::Refused));
        assert_ne!(other.place("plant", None), place);
        assert_ne!(fingerprint(&other, "d", &[]), print);
    }
    assert!(!right.is_right(&record), "a record is no check");
}

#[test]
fn a_short_key_is_none() {
    assert!(Sealer::new(&Secret::new("0123456789abcde"), SALT).is_none());
    assert!(Sealer::new(&Secret::new("0123456789abcdef"), SALT).is_some());
}

#[test]
fn a_text_that_is_no_record_is_refused_whatever_it_claims() {
    let encoded = encode(&stored());
    assert_eq!(decode(&encoded), Some(stored()));
    for length in 0..encoded.len() {
        assert_eq!(decode(&encoded[..length]), None, "{length} bytes");
    }
    let mut huge = encoded.to_vec();
    huge[32..40].copy_from_slice(&u64::MAX.to_be_bytes());
    assert_eq!(decode(&huge), None, "more values than there are");
    let mut long = encoded.to_vec();
    long[40..48].copy_from_slice(&u64::MAX.to_be_bytes());
    assert_eq!(decode(&long), None, "a text longer than there is");
}
