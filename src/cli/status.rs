//! `countersign status`: how a running program is, as its admin listener tells it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;

use super::ask::{Admin, Running};
use super::fetch::human;
use super::output::{BAD, FAINT, Failure, GOOD, print, styled};
use super::table::{CUT, Cell, table, terminal_width, visible};

/// How often it is asked again.
const INTERVAL: Duration = Duration::from_secs(2);

/// The share of a route's requests that an API may refuse before somebody has to look.
const MANY: f64 = 0.05;

/// What is shown, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print the JSON of /api/status
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    running: Running,
}

/// What is read of the answer: all of it may be missing, as other versions have more or less.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    version: String,
    uptime_s: f64,
    in_flight: u64,
    not_ready_because: Option<String>,
    credentials: Vec<Credential>,
    routes: Vec<Route>,
    reload: Option<Reload>,
    log: Option<Log>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Credential {
    name: String,
    state: String,
    /// "some" or "all" of those who need it do without.
    trouble: Option<String>,
    expires_in_s: Option<f64>,
    next_attempt_in_s: Option<f64>,
    failures: u64,
    error: Option<String>,
    last_renewal: Option<Renewal>,
    devices: Option<Devices>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Renewal {
    ago_s: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Devices {
    counts: Counts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    known: u64,
    fresh: u64,
    failing: u64,
    refused: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    name: String,
    upstream: String,
    in_flight: Option<u64>,
    rate_per_s: Option<f64>,
    error_share: Option<f64>,
    refused_share: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reload {
    ago_s: f64,
    outcome: String,
    problems: Vec<Problem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Log {
    level: String,
}

impl Status {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let admin = self.running.admin(|_| Ok(()))?;
        let first = self.ask(&admin)?;
        if self.watch {
            return self.go_on(&admin, first);
        }
        let (text, well) = first;
        print(text)?;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// What to show, and whether all is well.
    fn ask(&self, admin: &Admin) -> Result<(String, bool), Failure> {
        let answer = admin.get("/api/status")?;
        if answer.status != 200 {
            let why = visible(String::from_utf8_lossy(&answer.content).trim());
            return Err(Failure::at_run_time(format!("the running countersign says: {why}")));
        }
        let unknown = || {
            Failure::at_run_time(
                "the running countersign answers in a form that is not known here; is it of \
                 another version?",
            )
        };
        let told: Told = serde_json::from_slice(&answer.content).map_err(|_| unknown())?;
        let well = told.is_well();
        if !self.json {
            return Ok((page(&told, terminal_width()), well));
        }
        let all: serde_json::Value =
            serde_json::from_slice(&answer.content).map_err(|_| unknown())?;
        // Watched, each is a line.
        let text = if self.watch { all.to_string() } else { format!("{all:#}") };
        Ok((text + "\n", well))
    }

    /// Shows it again and again: in its place on a terminal, one after the other elsewhere. Goes on
    /// while nobody answers: the program may be started again.
    fn go_on(&self, admin: &Admin, first: (String, bool)) -> Result<ExitCode, Failure> {
        let in_place = std::io::stdout().is_terminal() && !self.json;
        let mut text = first.0;
        loop {
            if in_place {
                // To the top left; what is there is cleared line by line, so that nothing flickers.
                let lines = text.replace('\n', "\x1b[K\n");
                control("\x1b[H")?;
                print_in_place(&lines)?;
                control("\x1b[J")?;
            } else {
                print(&text)?;
                if !self.json {
                    print("\n")?;
                }
            }
            std::thread::sleep(INTERVAL);
            text = match self.ask(admin) {
                Ok((text, _)) => text,
                Err(failure) if self.json => {
                    failure.report();
                    continue;
                }
                Err(failure) => format!("{}\n", styled(BAD, visible(&failure.into_message()))),
            };
        }
    }
}

/// Text whose ends of lines clear what is behind them.
fn print_in_place(text: &str) -> Result<(), Failure> {
    // A stream that takes colours out would take out what clears as well.
    for line in text.split_inclusive('\n') {
        match line.strip_suffix("\x1b[K\n") {
            Some(line) => {
                print(line)?;
                control("\x1b[K\n")?;
            }
            None => print(line)?,
        }
    }
    Ok(())
}

/// What the terminal is to obey.
fn control(sequence: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(sequence.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::runtime(&error))
}

impl Told {
    /// True if nobody has to look: requests get credentials, and upstreams take them.
    fn is_well(&self) -> bool {
        self.not_ready_because.is_none()
            && self.credentials.iter().all(|credential| credential.trouble.is_none())
            && !self.routes.iter().any(Route::is_refused)
    }
}

impl Credential {
    fn row(&self) -> [Cell; 7] {
        let style = match self.state.as_str() {
            "fresh" => GOOD,
            "failing" | "refused" => BAD,
            _ => FAINT,
        };
        let error = match (&self.error, &self.devices) {
            (Some(error), _) => error.clone(),
            (None, Some(devices)) => {
                let Counts { known, fresh, failing, refused } = devices.counts;
                format!("{fresh} of {known} devices fresh, {failing} failing, {refused} refused")
            }
            (None, None) => String::new(),
        };
        [
            Cell::text(&self.name),
            Cell::text(&self.state).in_style(style),
            time(self.expires_in_s),
            time(self.next_attempt_in_s),
            match &self.last_renewal {
                Some(last) => ago(last.ago_s),
                None => Cell::none(),
            },
            if self.failures == 0 { Cell::none() } else { Cell::number(self.failures.to_string()) },
            Cell::text(&error),
        ]
    }
}

impl Route {
    /// The API refuses more than one request in twenty, as its alert says.
    fn is_refused(&self) -> bool {
        self.refused_share.is_some_and(|share| share > MANY)
    }

    fn row(&self) -> [Cell; 8] {
        let tenths = |value: Option<f64>| value.map(|value| format!("{value:.1}"));
        let or_none = |text: Option<String>| text.map_or_else(Cell::none, Cell::number);
        let ms = |value: Option<f64>| or_none(tenths(value).map(|value| format!("{value} ms")));
        let share = |share: Option<f64>| {
            let cell = or_none(share.map(|share| format!("{:.1} %", share * 100.0)));
            if share.is_some_and(|share| share > 0.0) { cell.in_style(BAD) } else { cell }
        };
        [
            Cell::text(&self.name),
            or_none(tenths(self.rate_per_s).map(|rate| format!("{rate}/s"))),
            share(self.error_share),
            share(self.refused_share),
            ms(self.p50_ms),
            ms(self.p99_ms),
            or_none(self.in_flight.map(|count| count.to_string())),
            Cell::text(&self.upstream),
        ]
    }
}

fn duration(seconds: f64) -> Option<String> {
    Duration::try_from_secs_f64(seconds).ok().map(human)
}

fn time(seconds: Option<f64>) -> Cell {
    seconds.and_then(duration).map_or_else(Cell::none, Cell::number)
}

fn ago(seconds: f64) -> Cell {
    duration(seconds).map_or_else(Cell::none, |time| Cell::number(format!("{time} ago")))
}

/// Everything, for people.
fn page(told: &Told, width: Option<usize>) -> String {
    let up = duration(told.uptime_s).unwrap_or_default();
    let mut text =
        format!("countersign {}, up {up}, {} in flight\n", visible(&told.version), told.in_flight);
    if let Some(why) = &told.not_ready_because {
        let _ = writeln!(text, "{}", styled(BAD, format!("not ready: {}", visible(why))));
    }
    if let Some(Log { level }) = &told.log {
        let _ = writeln!(text, "log level {}", visible(level));
    }
    if let Some(reload) = &told.reload {
        let when = duration(reload.ago_s).unwrap_or_default();
        let outcome = visible(&reload.outcome);
        let style = if reload.outcome == "refused" { BAD } else { FAINT };
        let _ = write!(text, "configuration read again {when} ago: {}", styled(style, outcome));
        for problem in &reload.problems {
            let _ = write!(text, "\n  {}", visible(&problem.message));
        }
        text.push('\n');
    }
    if !told.credentials.is_empty() {
        let head =
            ["CREDENTIAL", "STATE", "ENDS IN", "RENEWAL IN", "LAST RENEWAL", "FAILURES", "ERROR"];
        let rows: Vec<_> = told.credentials.iter().map(Credential::row).collect();
        let shown = table(head, &rows, width);
        let _ = write!(text, "\n{shown}");
        // What had no place in its line is what whoever looks wants to know.
        let errors = told.credentials.iter().filter(|_| shown.contains(CUT)).filter_map(|one| {
            Some(format!("{}: {}", visible(&one.name), visible(one.error.as_deref()?)))
        });
        for error in errors {
            let _ = writeln!(text, "\n{error}");
        }
    }
    if !told.routes.is_empty() {
        let head = ["ROUTE", "RATE", "ERRORS", "REFUSED", "P50", "P99", "IN FLIGHT", "UPSTREAM"];
        let rows: Vec<_> = told.routes.iter().map(Route::row).collect();
        let _ = write!(text, "\n{}", table(head, &rows, width));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(status: serde_json::Value) -> (Vec<String>, bool) {
        let told: Told = serde_json::from_value(status).unwrap();
        let well = told.is_well();
        let text = anstream::adapter::strip_str(&page(&told, None)).to_string();
        (text.lines().map(str::to_owned).collect(), well)
    }

    #[test]
    fn the_page_has_what_the_status_says_and_dashes_for_what_it_does_not() {
        let (lines, well) = lines(serde_json::json!({
            "version": "0.1.0", "uptime_s": 7_300.0, "in_flight": 2, "of another version": [],
            "credentials": [
                {
                    "name": "plant", "state": "fresh", "expires_in_s": 3_000.0,
                    "next_attempt_in_s": 2_400.0, "failures": 0, "error": null,
                    "last_renewal": { "ago_s": 600.0, "took_s": 0.2 },
                },
                {
                    "name": "mail", "state": "refused", "trouble": "all", "failures": 3, "error": "it said\u{1b}[2J no",
                },
            ],
            "routes": [{
                "name": "all", "upstream": "https://api.example.com", "rate_per_s": 12.34,
                "error_share": 0.015, "refused_share": 0.25, "p50_ms": 3.0, "p99_ms": null, "in_flight": 1,
            }],
            "reload": { "ago_s": 90.0, "outcome": "taken", "changes": [], "problems": [] },
            "log": { "level": "info", "access": "off" },
        }));
        let expected = [
            "countersign 0.1.0, up 2 h, 2 in flight",
            "log level info",
            "configuration read again 90 s ago: taken",
            "",
            "CREDENTIAL  STATE    ENDS IN  RENEWAL IN  LAST RENEWAL  FAILURES  ERROR",
            "plant       fresh     50 min      40 min    10 min ago         -",
            "mail        refused        -           -             -         3  it said\u{fffd}[2J no",
            "",
            "ROUTE    RATE  ERRORS  REFUSED     P50  P99  IN FLIGHT  UPSTREAM",
            "all    12.3/s   1.5 %   25.0 %  3.0 ms    -          1  https://api.example.com",
        ];
        assert_eq!(lines, expected);
        assert!(!well);
    }

    #[test]
    fn an_error_that_has_no_place_in_its_line_is_below_the_table() {
        let error = "the token endpoint refused the login: it answered 401 Unauthorized";
        let told: Told = serde_json::from_value(serde_json::json!({
            "credentials": [{ "name": "mail", "state": "refused", "failures": 3, "error": error }],
        }))
        .unwrap();
        let shown = |width| anstream::adapter::strip_str(&page(&told, Some(width))).to_string();
        assert!(shown(80).ends_with(&format!("\nmail: {error}\n")), "{}", shown(80));
        assert!(shown(80).lines().take(4).all(|line| line.chars().count() <= 80));
        assert_eq!(shown(200).matches(error).count(), 1);
    }

    #[test]
    fn all_is_well_unless_the_program_says_trouble_or_not_ready_or_apis_refuse_much() {
        let well = |status: serde_json::Value| lines(status).1;
        let of = |trouble: serde_json::Value| {
            let counts = serde_json::json!({ "known": 900, "fresh": 800, "refused": 1 });
            let credential = serde_json::json!({
                "name": "plant", "state": "refused", "trouble": trouble,
                "devices": { "counts": counts },
            });
            well(serde_json::json!({ "credentials": [credential] }))
        };
        assert!(of(serde_json::Value::Null), "one device of many");
        assert!(!of("some".into()) && !of("all".into()));
        let refuses = |share: serde_json::Value| {
            let route = serde_json::json!({ "name": "all", "refused_share": share });
            well(serde_json::json!({ "routes": [route] }))
        };
        assert!(refuses(serde_json::Value::Null) && refuses(0.05.into()));
        assert!(!refuses(0.051.into()) && !refuses(1.0.into()));
        let (lines, well) = lines(serde_json::json!({ "not_ready_because": "stopping" }));
        assert_eq!((lines[1].as_str(), well), ("not ready: stopping", false));
    }
}
