//! Where sockets cannot be handed over.

use std::io;
use std::path::Path;

use super::{HandoverError, Offered};
use crate::credential::store::file::Lender;
use crate::server::passed::Inherited;

/// The old process: none here.
#[derive(Debug)]
pub struct Giver;

/// The process before this one: none here.
#[derive(Debug)]
pub struct Predecessor;

/// Says that it cannot be done.
///
/// # Errors
/// Always.
pub fn ask(path: &Path) -> Result<Option<Predecessor>, HandoverError> {
    let error = io::Error::new(io::ErrorKind::Unsupported, "only Linux can hand sockets over");
    Err(HandoverError::Socket(path.to_owned(), error))
}

impl Giver {
    /// Says that it cannot be done.
    ///
    /// # Errors
    /// Always.
    pub fn open(path: &Path, _: Option<&mut Predecessor>) -> Result<Self, HandoverError> {
        ask(path).map(|_| Self)
    }

    /// Never returns.
    pub async fn serve(&self, _: &[Offered], _: &Lender) {
        std::future::pending().await
    }

    /// Never so.
    pub fn is_asked(&self) -> bool {
        false
    }

    /// It is so at once.
    pub async fn given_up(&self) {}

    /// Never so.
    pub fn is_handing(&self) -> bool {
        false
    }

    /// There is nothing to close.
    pub fn close(self, _: bool) {}
}

impl Predecessor {
    /// None.
    pub fn sockets(&mut self) -> Vec<Inherited> {
        Vec::new()
    }

    /// Never asked for.
    ///
    /// # Errors
    /// Never.
    pub fn take_over(&mut self) -> Result<(), HandoverError> {
        Ok(())
    }
}
