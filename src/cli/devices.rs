//! `countersign devices`: what a running program knows of the devices of a credential.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::ask::{Admin, Running};
use super::fetch::human;
use super::output::{BAD, FAINT, Failure, GOOD, STRONG, print, say, styled};
use super::table::visible;
use crate::admin::devices::{Counts, MAX_LIMIT, Page, Shown};
use crate::config::Config;
use crate::config::shape::nearest;

/// Which devices, and how they are shown.
#[derive(Debug, clap::Args)]
pub(super) struct Devices {
    /// The credential's name
    credential: String,
    /// In this state only
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(
        ["fresh", "renewing", "failing", "refused", "idle"]
    ))]
    state: Option<String>,
    /// With this in their name
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// No more than so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON: the counts, the devices, and where the next page begins
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    running: Running,
}

impl Devices {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let admin = self.running.admin(|config| self.has_devices(config))?;
        let page = self.ask(&admin)?;
        if self.json {
            let text = serde_json::to_string_pretty(&page);
            print(text.map_err(|error| Failure::runtime(&error))? + "\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        print(table(&page))?;
        if page.next.is_some() {
            say("there are more; --limit, --search and --state choose others");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn has_devices(&self, config: &Config) -> Result<(), Failure> {
        let name = self.credential.as_str();
        let with = |config: &Config| -> Vec<String> {
            let with = config.credentials.iter().filter(|credential| credential.devices.is_some());
            with.map(|credential| credential.name.clone()).collect()
        };
        match config.credentials.iter().find(|credential| credential.name == name) {
            Some(credential) if credential.devices.is_some() => Ok(()),
            Some(_) => {
                let with = with(config);
                let hint = if with.is_empty() {
                    "none has any".to_owned()
                } else {
                    format!("these have: {}", with.join(", "))
                };
                let message = format!("the credential '{name}' has no devices; {hint}");
                Err(Failure::configuration(message))
            }
            None => {
                let names: Vec<&str> = config.credentials.iter().map(|c| c.name.as_str()).collect();
                let hint = match nearest(name, &names) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("there are: {}", names.join(", ")),
                };
                Err(Failure::configuration(format!("there is no credential '{name}'; {hint}")))
            }
        }
    }

    /// As many pages as it takes.
    fn ask(&self, admin: &Admin) -> Result<Page, Failure> {
        let mut whole: Option<Page> = None;
        let mut left = usize::try_from(self.limit).unwrap_or(usize::MAX);
        loop {
            let after = whole.as_ref().and_then(|page| page.next.as_deref());
            let told = admin.get(&self.target(left.min(MAX_LIMIT), after))?;
            if told.status != 200 {
                let why = String::from_utf8_lossy(&told.content);
                let message = format!("the running countersign says: {}", why.trim());
                return Err(Failure::runtime(&std::io::Error::other(message)));
            }
            let page: Page = serde_json::from_slice(&told.content).map_err(|_| {
                let message = "the running countersign answers in a form that is not known here; \
                               is it of another version?";
                Failure::runtime(&std::io::Error::other(message))
            })?;
            left = left.saturating_sub(page.devices.len());
            let done = left == 0 || page.next.is_none() || page.devices.is_empty();
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => {
                    whole.devices.extend(page.devices);
                    whole.next = page.next;
                }
            }
            if done && let Some(whole) = whole.take() {
                return Ok(whole);
            }
        }
    }

    fn target(&self, limit: usize, after: Option<&str>) -> String {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut target =
            format!("/api/credentials/{}/devices?limit={limit}", escape(&self.credential));
        for (key, value) in
            [("state", self.state.as_deref()), ("search", self.search.as_deref()), ("after", after)]
        {
            if let Some(value) = value {
                let _ = write!(target, "&{key}={}", escape(value));
            }
        }
        target
    }
}

/// The counts, and a line per device.
fn table(page: &Page) -> String {
    let Counts { known, fresh, renewing, failing, refused, idle } = page.counts;
    let mut text = format!(
        "{known} device(s): {fresh} fresh, {renewing} renewing, {failing} failing, {refused} \
         refused, {idle} idle\n"
    );
    if page.devices.is_empty() {
        return text;
    }
    let width = page.devices.iter().map(|shown| visible(&shown.device).chars().count());
    let width = width.max().unwrap_or_default().clamp(6, 40);
    let head = format!(
        "{:width$}  {:8}  {:>10}  {:>8}  LAST ERROR",
        "DEVICE", "STATE", "EXPIRES IN", "FAILURES"
    );
    let _ = writeln!(text, "\n{}", styled(STRONG, head));
    for shown in &page.devices {
        let _ = writeln!(text, "{}", line(shown, width));
    }
    text
}

fn line(shown: &Shown, width: usize) -> String {
    let expires = shown.expires_in_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let expires = expires.map_or_else(|| "-".to_owned(), human);
    let style = match shown.state.as_str() {
        "fresh" => GOOD,
        "failing" | "refused" => BAD,
        _ => FAINT,
    };
    let state = styled(style, format!("{:8}", shown.state));
    let failures = if shown.failures == 0 { "-".to_owned() } else { shown.failures.to_string() };
    let error = shown.error.as_deref().map(visible).unwrap_or_default();
    let line = format!(
        "{:width$}  {state}  {expires:>10}  {failures:>8}  {error}",
        visible(&shown.device)
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(device: &str, state: &str, error: Option<&str>) -> Shown {
        Shown {
            device: device.to_owned(),
            state: state.to_owned(),
            expires_in_s: (state == "fresh").then_some(3_000.0),
            failures: u16::from(error.is_some()),
            error: error.map(str::to_owned),
            error_word: None,
            next_attempt_in_s: None,
            idle_for_s: None,
        }
    }

    #[test]
    fn the_table_has_counts_first_and_nothing_that_a_terminal_obeys() {
        let page = Page {
            credential: "plant".to_owned(),
            counts: Counts { known: 3, fresh: 1, renewing: 0, failing: 0, refused: 1, idle: 1 },
            devices: vec![
                shown("line-1", "fresh", None),
                shown("line-2\u{1b}[2J", "refused", Some("it said\nno")),
                shown("line-3", "idle", None),
            ],
            next: None,
        };
        let text = anstream::adapter::strip_str(&table(&page)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "3 device(s): 1 fresh, 0 renewing, 0 failing, 1 refused, 1 idle",
                "",
                "DEVICE      STATE     EXPIRES IN  FAILURES  LAST ERROR",
                "line-1      fresh         50 min         -",
                "line-2\u{fffd}[2J  refused            -         1  it said\u{fffd}no",
                "line-3      idle               -         -",
            ]
        );
    }
}
