//! Whether others can get at a file that holds a secret.

use std::fmt;
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
            Self::Readable => "every user of this system can read it; chmod o= takes that away",
            Self::Writable => "others can write to it; chmod go-w takes that away",
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
    /// Refuses the file at `path` if others can get at it and this is strict.
    ///
    /// # Errors
    /// With what others can do.
    pub fn file(self, path: &Path) -> Result<(), Exposed> {
        match self {
            Self::Off => Ok(()),
            Self::Strict => exposed(path).map_or(Ok(()), Err),
        }
    }

    /// Refuses the directory at `path` if others can write to it, and so put other files in the
    /// place of those there, and this is strict. That all may read it says nothing.
    ///
    /// # Errors
    /// With what others can do.
    pub fn directory(self, path: &Path) -> Result<(), Exposed> {
        match (self, exposed(path)) {
            (Self::Strict, Some(exposed @ Exposed::Writable)) => Err(exposed),
            (Self::Strict | Self::Off, _) => Ok(()),
        }
    }
}

/// How others can get at the file, if they can. Its group may read it: that is how a service is
/// given a secret that another user owns. What nobody else can reach, because of a directory above
/// it, is not open to others whatever its mode. A file that is not there is open to nobody.
#[cfg(unix)]
fn exposed(path: &Path) -> Option<Exposed> {
    use std::os::unix::fs::PermissionsExt as _;
    // Where symbolic links lead to: what is read is there, and only that counts.
    let path = path.canonicalize().ok()?;
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode());
    let own = mode(&path)?;
    let reachable_by = |execute: u32| {
        path.ancestors().skip(1).all(|above| mode(above).is_some_and(|mode| mode & execute != 0))
    };
    if (own & 0o002 != 0 && reachable_by(0o001)) || (own & 0o020 != 0 && reachable_by(0o010)) {
        return Some(Exposed::Writable);
    }
    (own & 0o004 != 0 && reachable_by(0o001)).then_some(Exposed::Readable)
}

/// Not known on this platform.
#[cfg(not(unix))]
fn exposed(_: &Path) -> Option<Exposed> {
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
        assert_eq!(exposed(&directory.path().join("missing")), None);
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
        assert_eq!(Check::Strict.file(&file), Err(Exposed::Writable));
        assert_eq!(Check::Off.file(&file), Ok(()));
    }
}
