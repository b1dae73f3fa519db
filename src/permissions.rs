//! Whether others can get at a file that holds a secret.

use std::fmt;
use std::fs::Metadata;
use std::path::Path;

/// How a file is open to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposed {
    /// Every user of the system can read it.
    Readable,
    /// Its group, or every user, can write to it.
    Writable,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readable => "every user of this system can read it; chmod o= takes that away, and of a mounted \
                 secret its mode, such as 0440",
            Self::Writable => "others can write to it, or put another in its place; chmod go-w, on it or the directory \
                 above it, takes that away",
        })
    }
}

impl std::error::Error for Exposed {}

/// Whether files that others can get at are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// They are.
    Strict,
    /// They are taken, because the operator says so.
    Off,
}

impl Check {
    /// Refuses a file of a secret, opened at `path`, if others can read or write it and this is strict.
    ///
    /// # Errors
    /// With what others can do.
    pub fn secret(self, path: &Path, opened: &Metadata) -> Result<(), Exposed> {
        self.judge(path, opened, true)
    }

    /// Refuses a file of no secret, but on which it depends who is believed, if others can write it and
    /// this is strict.
    ///
    /// # Errors
    /// With what others can do.
    pub fn trusted(self, path: &Path, opened: &Metadata) -> Result<(), Exposed> {
        self.judge(path, opened, false)
    }

    fn judge(self, path: &Path, opened: &Metadata, is_secret: bool) -> Result<(), Exposed> {
        if self == Self::Off {
            return Ok(());
        }
        match exposed(path, opened) {
            Some(Exposed::Readable) if !is_secret => Ok(()),
            Some(exposed) => Err(exposed),
            None => Ok(()),
        }
    }

    /// Refuses the directory at `path` if others can write to it, and so put other files in the
    /// place of those there, and this is strict. That all may read it says nothing.
    ///
    /// # Errors
    /// With what others can do.
    pub fn directory(self, path: &Path) -> Result<(), Exposed> {
        std::fs::metadata(path).map_or(Ok(()), |opened| self.trusted(path, &opened))
    }
}

/// How others can get at the file, if they can. Its group may read it: that is how a service is
/// given a secret that another user owns. What nobody else can reach, because of a directory above
/// it, is not open to others whatever its mode; and where everybody can write to a directory above
/// it, everybody can put another in its place, unless only owners may (a sticky one, such as `/tmp`).
#[cfg(unix)]
fn exposed(path: &Path, opened: &Metadata) -> Option<Exposed> {
    use std::os::unix::fs::PermissionsExt as _;
    const STICKY: u32 = 0o1000;
    // Where symbolic links lead to: what is read is there, and only that counts.
    let path = path.canonicalize().ok()?;
    let own = opened.permissions().mode();
    let above: Vec<u32> = path
        .ancestors()
        .skip(1)
        .filter_map(|above| Some(std::fs::metadata(above).ok()?.permissions().mode()))
        .collect();
    let reachable_by = |execute: u32| above.iter().all(|mode| mode & execute != 0);
    // Who is in the group may come in as anybody may.
    let group_writes = own & 0o020 != 0 && reachable_by(0o011);
    let open = |mode: &u32| mode & 0o002 != 0 && mode & STICKY == 0;
    let replaceable = above.iter().any(open) && reachable_by(0o001);
    if (own & 0o002 != 0 && reachable_by(0o001)) || group_writes || replaceable {
        return Some(Exposed::Writable);
    }
    (own & 0o004 != 0 && reachable_by(0o001)).then_some(Exposed::Readable)
}

/// Not known on this platform.
#[cfg(not(unix))]
fn exposed(_: &Path, _: &Metadata) -> Option<Exposed> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_others_can_read_or_write_is_exposed_unless_they_cannot_reach_it() {
        let set = |path: &Path, mode: u32| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let exposed = |path: &Path| super::exposed(path, &fs::metadata(path).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("secret");
        fs::write(&file, "s").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        set(directory.path(), 0o755);
        for (mode, expected) in [
            (0o600, None),
            (0o400, None),
            (0o640, None),
            (0o440, None),
            (0o644, Some(Exposed::Readable)),
            (0o604, Some(Exposed::Readable)),
            (0o620, Some(Exposed::Writable)),
            (0o602, Some(Exposed::Writable)),
            (0o666, Some(Exposed::Writable)),
        ] {
            set(&file, mode);
            for directory_mode in [0o755, 0o711] {
                set(&inner, directory_mode);
                assert_eq!(exposed(&file), expected, "{mode:o} in {directory_mode:o}");
                assert_eq!(exposed(&link), expected, "by a link, {mode:o}");
            }
            set(&inner, 0o700);
            assert_eq!(exposed(&file), None, "{mode:o} in a directory of our own");
        }
        // Everybody can put another in its place, or only who owns it.
        for (mode, expected) in [(0o777, Some(Exposed::Writable)), (0o1777, None)] {
            set(&file, 0o600);
            set(&inner, mode);
            assert_eq!(exposed(&file), expected, "{mode:o}");
        }
        for (mode, expected) in [
            (0o700, Ok(())),
            (0o755, Ok(())),
            (0o775, Err(Exposed::Writable)),
            (0o1777, Err(Exposed::Writable)),
        ] {
            set(&inner, mode);
            assert_eq!(Check::Strict.directory(&inner), expected, "{mode:o}");
            assert_eq!(Check::Off.directory(&inner), Ok(()));
        }
        set(&inner, 0o755);
        let check = |mode, check: Check| {
            set(&file, mode);
            let opened = fs::metadata(&file).unwrap();
            (check.secret(&file, &opened), check.trusted(&file, &opened))
        };
        let (readable, writable) = (Err(Exposed::Readable), Err(Exposed::Writable));
        assert_eq!(check(0o644, Check::Strict), (readable, Ok(())));
        assert_eq!(check(0o666, Check::Strict), (writable, writable));
        assert_eq!(check(0o666, Check::Off), (Ok(()), Ok(())));
    }
}
