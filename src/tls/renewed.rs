//! [`RenewedTls`]: TLS towards a host by files that are replaced while the program runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;

use super::{TlsError, TlsSettings, client_config};
use crate::permissions::Check;
use crate::stamp::Stamp;

/// TLS towards a host, by what its files say now. While they cannot be used, such as between the
/// replacement of a certificate and that of its key, what they said last stays.
pub struct RenewedTls {
    settings: TlsSettings,
    check: Check,
    read: Mutex<Read>,
    /// One looks at a time.
    looking: tokio::sync::Mutex<()>,
}

struct Read {
    config: Arc<ClientConfig>,
    /// Of the files, from before they were read last.
    stamps: Vec<Option<Stamp>>,
}

impl RenewedTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(settings: TlsSettings, check: Check) -> Result<Self, TlsError> {
        let stamps = settings.files().map(|file| Stamp::of_blocking(file)).collect();
        let config = client_config(&settings, check)?;
        let read = Mutex::new(Read { config, stamps });
        Ok(Self { settings, check, read, looking: tokio::sync::Mutex::default() })
    }

    /// True if it names files, which may change.
    pub fn has_files(&self) -> bool {
        self.settings.files().next().is_some()
    }

    /// What the files said last.
    pub fn last(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.read().config)
    }

    /// What the files say now.
    pub async fn now(&self) -> Arc<ClientConfig> {
        if !self.has_files() {
            return self.last();
        }
        let _one = self.looking.lock().await;
        let stamps = self.stamps().await;
        if stamps == self.read().stamps {
            return self.last();
        }
        let (settings, check) = (self.settings.clone(), self.check);
        let reading = tokio::task::spawn_blocking(move || client_config(&settings, check));
        let Ok(built) = reading.await else { return self.last() };
        // The beginning may be of the old one, the end of the new: they are read at the next look.
        if self.stamps().await != stamps {
            return self.last();
        }
        let files = self.files();
        let mut read = self.read();
        match built {
            Ok(config) => {
                read.config = config;
                tracing::info!(files, "the files of TLS to others were read again");
            }
            Err(reason) => tracing::warn!(
                files, %reason,
                "the files of TLS to others cannot be read again; what they said stays in use"
            ),
        }
        read.stamps = stamps;
        Arc::clone(&read.config)
    }

    async fn stamps(&self) -> Vec<Option<Stamp>> {
        let mut stamps = Vec::new();
        for file in self.settings.files() {
            stamps.push(Stamp::of(file).await);
        }
        stamps
    }

    fn files(&self) -> String {
        let files: Vec<String> =
            self.settings.files().map(|file| file.display().to_string()).collect();
        files.join(", ")
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for RenewedTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RenewedTls").field("settings", &self.settings).finish_non_exhaustive()
    }
}
