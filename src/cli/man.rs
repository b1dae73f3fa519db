//! `countersign man`: manual pages, from the same source as `--help`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::output::{Failure, print, say};

/// Columns of the Markdown.
const WIDTH: usize = 100;

pub(super) fn man(mut command: clap::Command, into: Option<&Path>) -> Result<ExitCode, Failure> {
    let Some(directory) = into else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| Failure::runtime(&error))?;
        print(String::from_utf8_lossy(&page))?;
        return Ok(ExitCode::SUCCESS);
    };
    // The page of each command is called after the program as well.
    command.build();
    let written = write(&command, directory).map_err(|error| {
        let error = io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
        Failure::runtime(&error)
    })?;
    say(format!("{written} pages written to {}", directory.display()));
    Ok(ExitCode::SUCCESS)
}

fn write(command: &clap::Command, directory: &Path) -> io::Result<usize> {
    let mut written = 1;
    clap_mangen::Man::new(command.clone()).generate_to(directory)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        written += write(command, directory)?;
    }
    Ok(written)
}

/// What all commands say of themselves, as one document.
pub(super) fn markdown(command: clap::Command) -> String {
    // As wide everywhere.
    let mut command = command.term_width(WIDTH);
    command.build();
    let mut text = "# Commands\n\nWhat `countersign man --markdown` prints: the `--help` of each \
                    command. Data goes to standard\noutput, everything else to standard error.\n"
        .to_owned();
    let names: Vec<String> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .filter(|name| name != "help")
        .collect();
    let mut section = |title: &str, help: String| {
        let _ = write!(text, "\n## {title}\n\n```text\n");
        for line in help.trim_end().lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push_str("```\n");
    };
    section("countersign", command.render_long_help().to_string());
    for name in names {
        if let Some(command) = command.find_subcommand_mut(&name) {
            section(&format!("countersign {name}"), command.render_long_help().to_string());
        }
    }
    text
}
