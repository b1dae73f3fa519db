//! The quick starts and what goes wrong first: pages of the book, done as they say.
//!
//! Blocks of a page, in their order: `sh` is run, in the background where it serves; `toml` and
//! `python` that begin with the name of a file are saved; each line of `text` has to be among what
//! the last command printed, and each line of `log` in the log of the program that runs. `…` stands
//! for anything. Pages name the ports 8080, 8081 and 9000; here they are free ones.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::docs::page::{Block, Page};
use crate::harness::program::{BINARY, has};
use crate::harness::{private_directory, until};

/// The ports of the pages: of what callers connect to, of `[admin]`, of a stand-in.
const PORTS: [&str; 3] = ["8080", "8081", "9000"];

/// A child that is ended when dropped, and what it prints.
struct Background {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Background {
    fn new(mut child: Child, output: impl Read + Send + 'static) -> Self {
        let printed: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        assert!(child.try_wait().is_ok());
        Self { child, printed }
    }

    fn printed(&self) -> Vec<String> {
        self.printed.lock().unwrap().clone()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Walk {
    page: Page,
    directory: tempfile::TempDir,
    /// What terminals keep: `export`, `unset`, `umask`.
    settings: Vec<String>,
    /// By the ports of the page.
    ports: HashMap<&'static str, String>,
    stand_in: Option<Background>,
    program: Option<Background>,
    /// What the last command printed.
    printed: Vec<String>,
    compared: usize,
}

impl Walk {
    fn new(path: &str) -> Self {
        Self {
            page: Page::read(path),
            directory: private_directory(),
            settings: Vec::new(),
            ports: HashMap::new(),
            stand_in: None,
            program: None,
            printed: Vec::new(),
            compared: 0,
        }
    }

    /// Does what the page says; says how many lines were compared.
    async fn done(path: &str) -> usize {
        let mut walk = Self::new(path);
        for block in walk.page.blocks() {
            let first = block.text.lines().next().unwrap_or_default().to_owned();
            match (block.info.as_str(), first.strip_prefix("# ")) {
                ("sh", _) if first.starts_with("countersign mock") => {
                    let command = first.replace("mock ", "mock --listen 127.0.0.1:0 ");
                    walk.stand_in(&command).await;
                }
                ("sh", _) if first.starts_with("python3 ") => walk.stand_in(&first).await,
                ("sh", _) if first.starts_with("countersign run") => walk.run().await,
                ("sh" | "sh fails", _) => walk.command(&block.text),
                ("toml", Some(name @ "countersign.toml")) => {
                    walk.save(name, &walk.here(&block.text));
                }
                ("python", Some(name)) => walk.save(name, &block.text.replace("9000", "0")),
                ("text", _) => walk.compare(&block),
                ("log", _) => walk.compare_log(&block).await,
                _ => {}
            }
        }
        walk.compared
    }

    fn save(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// With the ports of here.
    fn here(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (port, here)| {
            text.replace(&format!(":{port}"), &format!(":{here}"))
        })
    }

    /// With the ports of the page.
    fn there(&self, text: &str) -> String {
        let text = text.replace("running.toml", "countersign.toml");
        self.ports
            .iter()
            .fold(text, |text, (port, here)| text.replace(&format!(":{here}"), &format!(":{port}")))
    }

    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let binaries = Path::new(BINARY).parent().unwrap().display().to_string();
        let script = format!("{}\n{script}", self.settings.join("\n"));
        let mut command = Command::new("timeout");
        command.args(["60", "bash", "-c", &script]).current_dir(self.directory.path());
        command.env("PATH", format!("{binaries}:{path}")).env("NO_COLOR", "1");
        for unwanted in ["TWINZO_PASSWORD", "TWINZO_URL", "DEVO_URL", "http_proxy", "HTTPS_PROXY"] {
            command.env_remove(unwanted);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Without a shell in between, so that what is ended is what was started.
    fn replaced_by(&self, command: &str) -> Command {
        let mut shell = self.shell("");
        let script = format!("{}\nexec {command}", self.settings.join("\n"));
        let mut direct = Command::new("bash");
        direct.args(["-c", &script]).current_dir(self.directory.path());
        for (name, value) in shell.get_envs() {
            match value {
                Some(value) => direct.env(name, value),
                None => direct.env_remove(name),
            };
        }
        shell.stdin(Stdio::null());
        direct.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        direct
    }

    async fn stand_in(&mut self, command: &str) {
        self.stand_in = None;
        let mut child = self.replaced_by(&self.here(command)).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let started = Background::new(child, stdout);
        let mut port = None;
        until("the stand-in listens", || {
            let printed = started.printed();
            let address = printed.iter().find_map(|line| line.strip_prefix("listening on http://"));
            port = address.and_then(|address| Some(address.rsplit_once(':')?.1.to_owned()));
            port.is_some()
        })
        .await;
        self.ports.insert("9000", port.unwrap());
        self.stand_in = Some(started);
    }

    /// Runs a copy of the configuration, on free ports and with the log that a terminal shows;
    /// commands find the ports in the original.
    async fn run(&mut self) {
        self.program = None;
        for port in &PORTS[..2] {
            self.ports.remove(port);
        }
        let path = self.directory.path().join("countersign.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for line in text.clone().lines().filter(|line| line.starts_with("address = \"127.0.0.1:")) {
            text = text.replace(line, "address = \"127.0.0.1:0\"");
        }
        text.push_str("\n[log]\nformat = \"text\"\n");
        self.save("running.toml", &text);
        let command = "countersign run --config running.toml";
        let mut child = self.replaced_by(command).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut started = Background::new(child, stderr);
        let admin = text.contains("[admin]");
        let port = |line: &String, word: &str| {
            let (before, address) = line.split_once(" listening address=http://")?;
            let is_admin = before.ends_with(" admin");
            (is_admin == (word == "8081")).then_some(address.rsplit_once(':')?.1.to_owned())
        };
        let ports = &mut self.ports;
        until("the program listens, or ends", || {
            for line in started.printed() {
                for word in &PORTS[..2] {
                    if let Some(found) = port(&line, word) {
                        ports.insert(word, found);
                    }
                }
            }
            let listens = ports.contains_key("8080") && (!admin || ports.contains_key("8081"));
            listens || started.child.try_wait().unwrap().is_some()
        })
        .await;
        assert!(self.ports.contains_key("8080"), "{}: {:#?}", self.name(), started.printed());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, self.here(&text)).unwrap();
        self.program = Some(started);
    }

    fn command(&mut self, script: &str) {
        let script = self.here(script);
        let output = self.shell(&format!("{{ {script}\n}} 2>&1")).output().unwrap();
        let kept =
            |line: &&str| ["export ", "unset ", "umask "].iter().any(|word| line.starts_with(word));
        self.settings.extend(script.lines().filter(kept).map(str::to_owned));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.printed = self.there(&text).lines().map(str::to_owned).collect();
    }

    fn name(&self) -> String {
        self.page.path.display().to_string()
    }

    fn compare(&mut self, block: &Block) {
        for line in block.text.lines().filter(|line| !line.is_empty()) {
            assert!(
                self.printed.iter().any(|printed| fits(printed, line)),
                "{}:{}: this is not printed: {line}\nbut: {:#?}",
                self.name(),
                block.line,
                self.printed
            );
            self.compared += 1;
        }
    }

    async fn compare_log(&mut self, block: &Block) {
        let program = self.program.as_ref().expect("a program that runs");
        for line in block.text.lines().filter(|line| !line.is_empty()) {
            until(&format!("{}:{}: {line}", self.name(), block.line), || {
                program.printed().iter().any(|printed| fits(&self.there(printed), line))
            })
            .await;
            self.compared += 1;
        }
    }
}

/// True if `line` is what `pattern` says, in which `…` stands for anything.
fn fits(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn an_ellipsis_stands_for_anything() {
    assert!(fits("one two three", "one … three") && fits("one", "one") && fits("one", "…"));
    assert!(fits("a b c d", "…b…d") && fits("a b c", "a…"));
    assert!(!fits("one two", "one") && !fits("one two", "two…") && !fits("one two", "…one"));
}

#[tokio::test]
async fn the_quick_starts_do_what_they_say() {
    if !has("the_quick_starts_do_what_they_say", "curl")
        || !has("the_quick_starts_do_what_they_say", "python3")
    {
        return;
    }
    for (page, least) in [("install", 1), ("twinzo", 4), ("devo", 4), ("oauth", 4), ("hmac", 5)] {
        let compared = Walk::done(&format!("docs/start/{page}.md")).await;
        assert!(compared >= least, "{page}: {compared} lines");
    }
}

#[tokio::test]
async fn what_goes_wrong_first_looks_as_its_page_says() {
    if has("what_goes_wrong_first_looks_as_its_page_says", "curl") {
        assert!(Walk::done("docs/start/what-goes-wrong.md").await >= 40);
    }
}

#[tokio::test]
async fn a_gateway_for_devices_does_what_its_page_says() {
    if has("a_gateway_for_devices_does_what_its_page_says", "curl") {
        assert!(Walk::done("docs/uses/gateway.md").await >= 4);
    }
}
