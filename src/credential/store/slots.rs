//! [`Slots`]: the places of the devices of one credential.

use std::fmt;
use std::sync::Arc;

use super::{Definition, Slot, Store};
use crate::secret::Secret;
use crate::values::Values;

/// The places of all devices of a credential, made one at a time as they are needed: so many are
/// not kept. The default keeps nothing.
#[derive(Clone, Default)]
pub struct Slots(Option<Arc<Common>>);

struct Common {
    store: Store,
    credential: String,
    definition: Definition,
    login: Box<dyn Fn() -> Vec<Option<Secret>> + Send + Sync>,
}

impl Slots {
    /// The places of the devices of `credential`. `login` yields the secrets that all of them log
    /// in with, always in the same order.
    pub fn new(
        store: &Store,
        credential: &str,
        definition: Definition,
        login: impl Fn() -> Vec<Option<Secret>> + Send + Sync + 'static,
    ) -> Self {
        Self(store.0.is_some().then(|| {
            Arc::new(Common {
                store: store.clone(),
                credential: credential.to_owned(),
                definition,
                login: Box::new(login),
            })
        }))
    }

    /// True if what is saved there outlives the process.
    pub fn is_durable(&self) -> bool {
        self.0.is_some()
    }

    /// True if other processes may save there as well.
    pub fn is_shared(&self) -> bool {
        let store = self.0.as_ref().and_then(|common| common.store.0.as_ref());
        store.is_some_and(|durable| durable.is_shared())
    }

    /// The place of `device`, whose `own` values are secrets that it logs in with as well. In
    /// which order they stand makes no difference: that of the columns may change.
    pub fn of(&self, device: &str, own: &Values) -> Slot {
        let Some(common) = &self.0 else { return Slot::default() };
        let mut own: Vec<(String, Secret)> =
            own.iter().map(|(name, secret)| (name.to_owned(), secret.clone())).collect();
        own.sort_by(|(one, _), (other, _)| one.cmp(other));
        let shared = Arc::clone(common);
        let login = move || {
            let pairs = own.iter().flat_map(|(name, secret)| [Secret::new(name), secret.clone()]);
            (shared.login)().into_iter().chain(pairs.map(Some)).collect()
        };
        Slot::new(&common.store, &common.credential, Some(device), common.definition, login)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("durable", &self.is_durable()).finish_non_exhaustive()
    }
}
