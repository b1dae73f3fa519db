//! The commands. Data goes to standard output, everything else to standard error.

mod ask;
mod check;
mod demo;
mod devices;
mod exec;
mod explain;
mod fetch;
mod healthcheck;
mod hint;
mod init;
mod load;
mod login;
mod man;
mod mock;
mod output;
mod progress;
mod refresh;
mod routes;
mod run;
mod signals;
mod status;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{reference, shape, starter};
use crate::{private, telemetry};
use output::{Failure, print};

/// A local authenticating reverse proxy: unsigned HTTP in, authenticated HTTP out.
///
/// Point a tool that can only send plain requests at countersign. It picks the route, adds the
/// token, fields or signature that the API wants, sends the request on and streams the answer back.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 success; 1 a failure at run time; 2 usage or configuration.\n\n\
                  Start here: countersign demo"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    #[command(
        after_help = "Example: countersign run --config /etc/countersign/countersign.toml\n\n\
        SIGTERM and Ctrl-C end it gracefully; a second one ends it at once."
    )]
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show the main job with nothing to set up: stand-ins of the APIs, a proxy, real requests
    #[command(after_help = "Example: countersign demo --once")]
    Demo {
        /// End after the exchanges: 0 only if every one of them was accepted
        #[arg(long)]
        once: bool,
        /// Let the stand-ins fail, to see what callers are told: too_many_requests:30,
        /// server_error, empty_ok, garbage, close_connection
        #[arg(long, value_name = "FAILURE")]
        fail: Option<crate::mock::Failure>,
    },
    /// Run the stand-in of one vendor's API, for building and testing integrations
    #[command(
        after_help = "Example: countersign mock twinzo --listen 127.0.0.1:9000 --lifetime 60s"
    )]
    Mock(mock::Mock),
    /// Print a commented starter configuration
    #[command(after_help = "Example: countersign init twinzo-device > countersign.toml")]
    Init {
        /// The kind of credential
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(starter::KINDS))]
        kind: String,
    },
    /// Report every problem in the configuration
    #[command(after_help = "Example: countersign check --config countersign.toml\n\n\
        Works without the secrets being there; --live needs them.")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Also read the secrets, log in with every credential and connect to every upstream
        #[arg(long)]
        live: bool,
        /// Print every credential in terms of the generic kinds, as TOML
        #[arg(long, conflicts_with = "live")]
        print: bool,
    },
    /// Print the route table
    #[command(after_help = "Example: countersign routes --config countersign.toml")]
    Routes {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show what would happen to a request; send nothing
    #[command(after_help = "Example: countersign explain POST /probio/domain -H 'Content-Type: \
        application/json' --data '{\"name\":\"x\"}'")]
    Explain(explain::Explain),
    /// Fetch a credential once; print the names of its values and their lifetime
    #[command(
        after_help = "Example: countersign fetch plant\n         countersign fetch gateways --device line-07"
    )]
    Fetch {
        /// The credential's name
        credential: String,
        /// The device, for a credential with devices
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Serve on a free port for as long as a command runs, which finds it in COUNTERSIGN_URL
    #[command(
        after_help = "Example: countersign exec -- sh -c 'curl \"$COUNTERSIGN_URL/v3/devices\"'\n\n\
        Exits with the status of the command. Listeners and [admin] of the configuration are not \
        opened,\nand caller_token, allow, users and client_ca of a listener are not in effect: while \
        the command\nruns, every program of this machine can use the port."
    )]
    Exec(exec::Exec),
    /// Log a person in, for a credential of kind oauth2 with grant = "device_code"
    #[command(after_help = "Example: countersign login mail\n\n\
        Prints a page and a code, waits until somebody has approved the login there, and keeps its \
        tokens in the token store, where `countersign run` finds them. A token store in a file is \
        for one process at a time: stop `countersign run` first.")]
    Login {
        /// The credential's name
        credential: String,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show the devices of a credential as a running countersign knows them
    #[command(after_help = "Example: countersign devices gateways --state refused\n\n\
        Asks the admin listener that the configuration names.")]
    Devices(devices::Devices),
    /// Show how a running countersign is: its credentials, its routes, its last reload
    #[command(after_help = "Example: countersign status --watch\n\n\
        Asks the admin listener that the configuration names. Exit status: 0 if all is well; 1 if a \
        credential is in trouble (failing or refused; where devices have their own: nobody may log \
        in, or none has a usable one and some fail), or if countersign cannot be asked.")]
    Status(status::Status),
    /// Have a running countersign fetch a credential now, whatever its schedule says
    #[command(after_help = "Example: countersign refresh plant\n\n\
        Asks the admin listener that the configuration names. The credential from before stays in \
        use until there is another. Not more often than refresh.min_interval allows.")]
    Refresh(refresh::Refresh),
    /// Succeed if the admin listener says that countersign is ready
    #[command(after_help = "Example: countersign healthcheck --address 127.0.0.1:8081")]
    Healthcheck {
        /// Where the admin listener is
        #[arg(long, default_value = "127.0.0.1:8081")]
        address: SocketAddr,
    },
    /// Print the JSON Schema of the configuration, for editors
    #[command(after_help = "Example: countersign schema > countersign.schema.json")]
    Schema {
        /// Print a reference of all keys for people instead, as Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Print shell completions
    #[command(after_help = "Example: countersign completions bash > \
        /etc/bash_completion.d/countersign")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a directory
    #[command(after_help = "Example: countersign man /usr/local/share/man/man1")]
    Man {
        /// The directory; without it the page of the program itself is printed
        directory: Option<PathBuf>,
        /// Print what all commands say of themselves, as Markdown
        #[arg(long, conflicts_with = "directory")]
        markdown: bool,
    },
}

/// Which configuration file.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration; '-' reads standard input. Default: ./countersign.toml, then the user's
    /// config directory, then /etc/countersign/countersign.toml
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are data; everything else is not. clap knows.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Before any secret is read.
    let private = private::keep_memory_private().map_err(|error| Failure::runtime(&error));
    let ended = private.and_then(|()| dispatch(arguments.command));
    telemetry::finish();
    match ended {
        Ok(status) => status,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run { config } => run::run(config.config.as_deref()),
        Command::Demo { once, fail } => demo::demo(once, fail),
        Command::Mock(mock) => mock.run(),
        Command::Init { kind } => init::init(&kind),
        Command::Check { config, live, print } => {
            check::check(config.config.as_deref(), live, print)
        }
        Command::Routes { config } => routes::routes(config.config.as_deref()),
        Command::Explain(explain) => explain.run(),
        Command::Fetch { credential, device, config } => {
            fetch::fetch(&credential, device.as_deref(), config.config.as_deref())
        }
        Command::Exec(exec) => exec.run(),
        Command::Login { credential, config } => {
            login::login(&credential, config.config.as_deref())
        }
        Command::Devices(devices) => devices.run(),
        Command::Status(status) => status.run(),
        Command::Refresh(refresh) => refresh.run(),
        Command::Healthcheck { address } => Ok(healthcheck::healthcheck(address)),
        Command::Schema { markdown } => {
            let schema =
                if markdown { reference::markdown() } else { format!("{:#}\n", shape::schema()) };
            print(schema)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "countersign", &mut script);
            print(String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { markdown: true, .. } => {
            print(man::markdown(Arguments::command()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory, .. } => man::man(Arguments::command(), directory.as_deref()),
    }
}
