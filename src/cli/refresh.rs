//! `countersign refresh`: has a running program fetch a credential now.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::ask::Running;
use super::fetch::human;
use super::output::{Failure, GOOD, print, styled};
use super::table::visible;

/// Which credential.
#[derive(Debug, clap::Args)]
pub(super) struct Refresh {
    /// The credential's name
    credential: String,
    /// The device, where each has its own
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Print the JSON of the answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    outcome: String,
    expires_in_s: Option<f64>,
    took_s: Option<f64>,
    error: Option<String>,
    retry_in_s: Option<f64>,
    usable: Option<bool>,
}

impl Refresh {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let admin = self.running.admin(|_| Ok(()))?;
        let answer = admin.post(&self.target())?;
        let text = String::from_utf8_lossy(&answer.content);
        let Ok(told) = serde_json::from_slice::<Told>(&answer.content) else {
            let why = visible(text.trim());
            return Err(Failure::at_run_time(format!("the running countersign says: {why}")));
        };
        let fetched = answer.status == 200;
        if self.json {
            print(format!("{}\n", text.trim_end()))?;
        } else if fetched {
            print(told.success())?;
        } else {
            return Err(Failure::at_run_time(told.failure()));
        }
        Ok(if fetched { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn target(&self) -> String {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut target = format!("/api/credentials/{}/refresh", escape(&self.credential));
        if let Some(device) = &self.device {
            let _ = write!(target, "?device={}", escape(device));
        }
        target
    }
}

fn time(seconds: Option<f64>) -> Option<String> {
    Duration::try_from_secs_f64(seconds?).ok().map(human)
}

impl Told {
    fn success(&self) -> String {
        let mut text = styled(GOOD, "fetched");
        if let Some(took) = time(self.took_s) {
            let _ = write!(text, " in {took}");
        }
        match time(self.expires_in_s) {
            Some(left) => {
                let _ = writeln!(text, "; it is good for {left}");
            }
            None => text.push_str("; it does not end\n"),
        }
        text
    }

    fn failure(&self) -> String {
        let mut text = visible(self.error.as_deref().unwrap_or(&self.outcome));
        if let Some(retry) = time(self.retry_in_s) {
            let _ = write!(text, "; the next attempt may be made in {retry}");
        }
        if self.usable == Some(true) {
            text.push_str("; the credential from before is still in use");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_it_is_said_in_a_line() {
        let told = Told {
            outcome: "fetched".to_owned(),
            expires_in_s: Some(3_600.0),
            took_s: Some(0.25),
            ..Told::default()
        };
        let text = anstream::adapter::strip_str(&told.success()).to_string();
        assert_eq!(text, "fetched in 250 ms; it is good for 60 min\n");
        let told = Told {
            error: Some("the endpoint\u{1b}[2J said no".to_owned()),
            retry_in_s: Some(30.0),
            usable: Some(true),
            ..Told::default()
        };
        assert_eq!(
            told.failure(),
            "the endpoint\u{fffd}[2J said no; the next attempt may be made in 30 s; the credential \
             from before is still in use"
        );
    }
}
