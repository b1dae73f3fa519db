//! `countersign man`: manual pages, from the same source as `--help`.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::output::{Failure, print, say};

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
