//! `countersign mock`: the stand-in of one vendor's API.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::ValueEnum;

use super::output::{FAINT, Failure, print, styled};
use super::run::runtime;
use super::signals::Signals;
use crate::mock::{self, Failure as MockFailure, Offset, Period, StandIn};

/// Which stand-in, and how it behaves.
#[derive(Debug, clap::Args)]
pub(super) struct Mock {
    /// The vendor
    vendor: Vendor,
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// How long its tokens live (twinzo)
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<Period>,
    /// How many devices have an account of their own, each with a login (twinzo)
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    devices: usize,
    /// How long its answers take
    #[arg(long, value_name = "DURATION")]
    latency: Option<Period>,
    /// How its token endpoints fail: too_many_requests:30, server_error, empty_ok, garbage, hang,
    /// close_connection, success_false
    #[arg(long, value_name = "FAILURE")]
    token_failure: Option<MockFailure>,
    /// How its other endpoints fail
    #[arg(long, value_name = "FAILURE")]
    data_failure: Option<MockFailure>,
    /// How far its clock is ahead of this machine's; -1h: an hour behind
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    clock: Option<Offset>,
    /// How far the time of a signature may be from its clock; others are refused (devo)
    #[arg(long, value_name = "DURATION")]
    max_skew: Option<Period>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Vendor {
    Twinzo,
    Devo,
}

impl Mock {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        runtime()?.block_on(async {
            let mut signals = Signals::new().map_err(|error| Failure::runtime(&error))?;
            match self.vendor {
                Vendor::Twinzo => self.serve_twinzo(&mut signals).await,
                Vendor::Devo => self.serve_devo(&mut signals).await,
            }
        })
    }

    fn cannot_listen(&self, error: &std::io::Error) -> Failure {
        let failure = Failure::at_run_time(format!("cannot listen on {}: {error}", self.listen));
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        failure.hint(taken.then_some(
            "another program listens there, perhaps another stand-in: end it, or choose another \
             port with --listen",
        ))
    }

    async fn serve_twinzo(&self, signals: &mut Signals) -> Result<ExitCode, Failure> {
        let accounts = (1..=self.devices).map(mock::twinzo::Account::of_device).collect();
        let options = mock::twinzo::Options { accounts, ..mock::twinzo::Options::default() };
        let started = mock::twinzo::start(self.listen, options.clone()).await;
        let stand_in = started.map_err(|error| self.cannot_listen(&error))?;
        let facts = [
            ("client", options.client),
            ("login", options.login),
            ("password", options.password),
            ("client_guid", options.client_guid),
            ("branch_guid", options.branch_guid),
            ("api_key", options.api_key),
        ];
        let mut facts = facts.to_vec();
        if self.devices > 0 {
            let last = mock::twinzo::Account::of_device(self.devices);
            let first = mock::twinzo::Account::of_device(1);
            facts.push(("devices", format!("{} to {}", first.login, last.login)));
            facts.push(("their passwords", format!("{} to {}", first.password, last.password)));
        }
        self.serve(stand_in, &facts, signals).await
    }

    async fn serve_devo(&self, signals: &mut Signals) -> Result<ExitCode, Failure> {
        let max_skew = self.max_skew.map(|Period(max_skew)| max_skew);
        let options = mock::devo::Options { max_skew, ..mock::devo::Options::default() };
        let started = mock::devo::start(self.listen, options.clone()).await;
        let stand_in = started.map_err(|error| self.cannot_listen(&error))?;
        let facts = [
            ("standAloneToken", options.standalone_token),
            ("bearer token", options.bearer_token),
            ("domain_api_key", options.domain_api_key),
            ("its api_secret", options.domain_api_secret),
            ("reseller_api_key", options.reseller_api_key),
            ("its api_secret", options.reseller_api_secret),
            ("api_key (query)", options.api_key),
            ("its api_secret", options.api_secret),
        ];
        self.serve(stand_in, &facts, signals).await
    }

    /// Serves until told to stop. The stand-in's credentials are invented, so they are printed.
    async fn serve(
        &self,
        stand_in: StandIn,
        facts: &[(&str, String)],
        signals: &mut Signals,
    ) -> Result<ExitCode, Failure> {
        let switches = stand_in.switches();
        if let Some(Period(lifetime)) = self.lifetime {
            switches.set_token_lifetime(lifetime);
        }
        if let Some(Period(latency)) = self.latency {
            switches.set_token_latency(latency);
            switches.set_data_latency(latency);
        }
        if let Some(failure) = self.token_failure {
            switches.fail_token_calls(failure, None);
        }
        if let Some(failure) = self.data_failure {
            switches.fail_data_calls(failure, None);
        }
        if let Some(Offset(offset_ms)) = self.clock {
            switches.set_clock_offset_ms(offset_ms);
        }
        let url = stand_in.url();
        let mut text = format!("listening on {url}\n\nIt accepts (all invented):\n");
        for (name, value) in facts {
            let _ = writeln!(text, "  {name:<18} {value}");
        }
        let hint = format!(
            "Switches: curl {url}{} shows them; POST JSON to change them",
            mock::CONTROL_PATH
        );
        let _ = writeln!(text, "\n{}", styled(FAINT, hint));
        print(text)?;
        signals.next().await;
        stand_in.stop().await;
        Ok(ExitCode::SUCCESS)
    }
}
