//! How a record is sealed before it leaves the process, and what it is bound to.
//!
//! Everything is derived from the key of the configuration with HKDF-SHA256 (RFC 5869): a key per
//! place for ChaCha20-Poly1305 (RFC 8439), so that random nonces have room whatever the number of
//! devices, and keys for the names of places and for fingerprints. A record can be opened only at
//! the place it was sealed for, and only while the credential is defined as it was then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::Stored;
use crate::clock::unix_ms;
use crate::secret::Secret;
use crate::values::Values;

/// The least length of a key. What is shorter can be guessed.
pub const MIN_KEY: usize = 16;

/// The form of a record, its first byte.
const VERSION: u8 = 1;
/// Version, and until when the record is worth keeping.
const HEAD: usize = 1 + 8;
/// What is sealed to find out whether a key is the right one.
const CHECK: &[u8] = b"countersign";

/// The name of a place in a store: a keyed hash of a credential's name and a device's, so that
/// whoever reads the store learns neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place([u8; 32]);

impl Place {
    /// As stores take it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a credential's definition, and the secrets that it uses, come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Why a record cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Another key, another place, another definition, or not what was written.
    #[error("it was made for another definition of the credential, or was altered")]
    Refused,
    /// A later version of countersign wrote it, or nobody did.
    #[error("its form is not known")]
    Form,
}

/// The system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandom;

/// Seals and opens.
#[derive(Debug)]
pub struct Sealer {
    root: Prk,
    places: hmac::Key,
    fingerprints: hmac::Key,
    random: SystemRandom,
}

impl Sealer {
    /// The keys that follow from `key` and the store's own `salt`; `None` if `key` is shorter than
    /// [`MIN_KEY`] bytes.
    pub fn new(key: &Secret, salt: &[u8]) -> Option<Self> {
        let key = key.expose().as_bytes();
        if key.len() < MIN_KEY {
            return None;
        }
        let root = Salt::new(HKDF_SHA256, salt).extract(key);
        let derived = |purpose: &[u8]| {
            let purpose = [purpose];
            root.expand(&purpose, hmac::HMAC_SHA256).ok().map(hmac::Key::from)
        };
        let places = derived(b"countersign store 1 places")?;
        let fingerprints = derived(b"countersign store 1 fingerprints")?;
        Some(Self { root, places, fingerprints, random: SystemRandom::new() })
    }

    /// A salt for a new store.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn salt() -> Result<[u8; 32], NoRandom> {
        let mut salt = [0; 32];
        SystemRandom::new().fill(&mut salt).map_err(|_| NoRandom)?;
        Ok(salt)
    }

    /// The place of a credential, or of one of its devices.
    pub fn place(&self, credential: &str, device: Option<&str>) -> Place {
        let device = device.map(str::as_bytes);
        Place(digest(&self.places, [Some(credential.as_bytes()), device]))
    }

    /// The fingerprint of a `definition` and of the secrets that it is used with, in their order.
    pub fn fingerprint<'s>(
        &self,
        definition: &[u8],
        secrets: impl Iterator<Item = Option<&'s str>>,
    ) -> Fingerprint {
        let secrets = secrets.map(|secret| secret.map(str::as_bytes));
        let parts = std::iter::once(Some(definition)).chain(secrets);
        Fingerprint(digest(&self.fingerprints, parts))
    }

    /// A record of `stored`. `keep_until` is written beside it in the clear: a store clears up by
    /// it.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn seal(
        &self,
        place: Place,
        fingerprint: Fingerprint,
        stored: &Stored,
        keep_until: Option<SystemTime>,
    ) -> Result<Vec<u8>, NoRandom> {
        let until = keep_until.map_or(u64::MAX, unix_ms);
        self.seal_text(place, fingerprint, until, encode(stored))
    }

    /// What was sealed for this place and this definition.
    ///
    /// # Errors
    /// When it was not, or is no record.
    pub fn open(
        &self,
        place: Place,
        fingerprint: Fingerprint,
        record: &[u8],
    ) -> Result<Stored, UnsealError> {
        let text = self.open_text(place, fingerprint, record)?;
        decode(&text).ok_or(UnsealError::Form)
    }

    /// A record by which [`is_right`](Self::is_right) knows this key again.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn check(&self) -> Result<Vec<u8>, NoRandom> {
        let text = Zeroizing::new(CHECK.to_vec());
        self.seal_text(self.place("", None), self.fingerprint(b"", std::iter::empty()), 0, text)
    }

    /// True if `check` was made with this key.
    pub fn is_right(&self, check: &[u8]) -> bool {
        let fingerprint = self.fingerprint(b"", std::iter::empty());
        let text = self.open_text(self.place("", None), fingerprint, check);
        text.is_ok_and(|text| text.as_slice() == CHECK)
    }

    fn seal_text(
        &self,
        place: Place,
        fingerprint: Fingerprint,
        until: u64,
        mut text: Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>, NoRandom> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| NoRandom)?;
        let mut record = vec![VERSION];
        record.extend(until.to_be_bytes());
        let bound = bound(&record, place, fingerprint);
        // In place, so that the plain text is not left behind.
        let tag = self
            .key(place)
            .and_then(|key| {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_separate_tag(nonce, Aad::from(&bound), &mut text).ok()
            })
            .ok_or(NoRandom)?;
        record.extend(nonce);
        record.extend(text.iter());
        record.extend(tag.as_ref());
        Ok(record)
    }

    fn open_text(
        &self,
        place: Place,
        fingerprint: Fingerprint,
        record: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let (head, rest) = record.split_at_checked(HEAD).ok_or(UnsealError::Form)?;
        if head.first() != Some(&VERSION) {
            return Err(UnsealError::Form);
        }
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or(UnsealError::Form)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| UnsealError::Form)?;
        let bound = bound(head, place, fingerprint);
        let mut text = Zeroizing::new(sealed.to_vec());
        let key = self.key(place).ok_or(UnsealError::Refused)?;
        let length = key
            .open_in_place(nonce, Aad::from(&bound), &mut text)
            .map_err(|_| UnsealError::Refused)?
            .len();
        text.truncate(length);
        Ok(text)
    }

    fn key(&self, place: Place) -> Option<LessSafeKey> {
        let info = [b"countersign store 1 records ".as_slice(), &place.0];
        let key = self.root.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Until when a record is worth keeping, without opening it; `None` if it is no record.
pub fn keep_until(record: &[u8]) -> Option<SystemTime> {
    let (head, _) = record.split_at_checked(HEAD)?;
    let (version, until) = head.split_first()?;
    let until = u64::from_be_bytes(until.try_into().ok()?);
    (*version == VERSION).then_some(())?;
    Some(UNIX_EPOCH + Duration::from_millis(until).min(CENTURIES))
}

/// Stands for a clock skew that is not known.
const NO_SKEW: i64 = i64::MIN;

/// As far as clocks go.
const CENTURIES: Duration = Duration::from_hours(24 * 365 * 1000);

/// What a record is bound to beside its key.
fn bound(head: &[u8], place: Place, fingerprint: Fingerprint) -> Vec<u8> {
    [head, &place.0, &fingerprint.0].concat()
}

/// A keyed hash of parts, no two lists of which are written alike.
fn digest<'p>(key: &hmac::Key, parts: impl IntoIterator<Item = Option<&'p [u8]>>) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        match part {
            None => context.update(&[0]),
            Some(part) => {
                context.update(&[1]);
                context.update(&length(part).to_be_bytes());
                context.update(part);
            }
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.sign().as_ref());
    digest
}

fn length(part: &[u8]) -> u64 {
    u64::try_from(part.len()).unwrap_or(u64::MAX)
}

/// Numbers as 8 bytes, an absent one as all ones; texts after their lengths.
fn encode(stored: &Stored) -> Zeroizing<Vec<u8>> {
    let texts = || stored.values.iter().flat_map(|(name, value)| [name, value.expose()]);
    let size = 5 * 8 + texts().map(|text| 8 + text.len()).sum::<usize>();
    // Memory of the right size from the start: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let skew = stored.clock_skew_ms.unwrap_or(NO_SKEW).cast_unsigned();
    for number in [
        unix_ms(stored.fetched),
        stored.expires.map_or(u64::MAX, unix_ms),
        stored.lifetime.map_or(u64::MAX, milliseconds),
        skew,
        u64::try_from(stored.values.iter().count()).unwrap_or(u64::MAX),
    ] {
        bytes.extend(number.to_be_bytes());
    }
    for text in texts() {
        bytes.extend(length(text.as_bytes()).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Stored> {
    let mut rest = bytes;
    let mut number = || -> Option<u64> {
        let (number, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_be_bytes(*number))
    };
    let known = |number: u64| (number != u64::MAX).then_some(number);
    let time = |ms: u64| UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    let fetched = time(number()?)?;
    let expires = known(number()?).map(time);
    let expires = if let Some(end) = expires { Some(end?) } else { None };
    let lifetime = known(number()?).map(Duration::from_millis);
    let clock_skew_ms = Some(number()?.cast_signed()).filter(|skew| *skew != NO_SKEW);
    let count = number()?;
    let mut values = Values::default();
    for _ in 0..count {
        let mut text = || -> Option<&str> {
            let (size, after) = rest.split_first_chunk::<8>()?;
            let size = usize::try_from(u64::from_be_bytes(*size)).ok()?;
            let (text, after) = after.split_at_checked(size)?;
            rest = after;
            std::str::from_utf8(text).ok()
        };
        let (name, value) = (text()?, text()?);
        values.insert(name, Secret::new(value));
    }
    rest.is_empty().then_some(Stored { values, fetched, expires, lifetime, clock_skew_ms })
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
