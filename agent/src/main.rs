//! The `quorate` command: arguments in, exit status out.
//!
//! Owns: the command line and the exit status. Must not: do the work of a command; each has its own module.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use quorate::{
    command_command, commands, model_command::arguments::ModelCommand, outbox_look::Export,
    outcome::Outcome, sensors_command,
};

/// On-device inference agent: votes across redundant sensors, runs ONNX models, never loses a result.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show the whole path on this machine, with nothing to install.
    #[cfg(feature = "demo")]
    Demo {
        /// Stay up after the summary until interrupted.
        #[arg(long)]
        keep: bool,
        /// How many times faster than real time the recorded machine runs.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
        speed: u32,
        /// Address of the page.
        #[arg(long, default_value = "127.0.0.1:8870")]
        listen: SocketAddr,
    },
    /// Validate configuration, models, sources and store; print what would run.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run the same core over a recorded trace, in virtual time.
    Replay {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The trace, in CSV.
        #[arg(long, value_name = "TRACE.csv")]
        input: PathBuf,
        /// Where the votes and inferences go; standard output when not given.
        #[arg(long, value_name = "OUT.jsonl")]
        output: Option<PathBuf>,
    },
    /// Look into a vote.
    Vote {
        #[command(subcommand)]
        command: VoteCommand,
    },
    /// What the running agent says of itself.
    Status {
        /// The answer as JSON, for programs.
        #[arg(long)]
        json: bool,
        /// Address of the agent's endpoint.
        #[arg(long, default_value = "127.0.0.1:8870", env = "QUORATE__HTTP__LISTEN")]
        address: SocketAddr,
    },
    /// What happened lately, as the running agent recorded it.
    Events {
        /// Each record as it is stored and sent, for programs.
        #[arg(long)]
        json: bool,
        /// Address of the agent's endpoint.
        #[arg(long, default_value = "127.0.0.1:8870", env = "QUORATE__HTTP__LISTEN")]
        address: SocketAddr,
    },
    /// What keeps this device from doing its work, and what to do about it.
    Doctor {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The findings as JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Receive what devices send: drop repeats, write SQLite or JSON lines, confirm, report gaps.
    #[cfg(feature = "collect")]
    Collect(quorate::collect::arguments::Arguments),
    /// Make keys for commands, and sign commands.
    #[command(name = "command")]
    Order {
        #[command(subcommand)]
        command: OrderCommand,
    },
    /// What is on the buses of this machine, and what the configured sensors say.
    Sensors {
        #[command(subcommand)]
        command: SensorsCommand,
    },
    /// Pack, sign and check model files, and choose the one that runs.
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Try the bundle on standard input; started by the agent itself.
    #[command(hide = true)]
    ModelTrial {
        /// Most address space in bytes.
        memory_bytes: u64,
        /// Most processor time in seconds.
        cpu_s: u64,
    },
    /// Write manual pages and completions for shells, as packages carry them.
    #[cfg(feature = "manual")]
    #[command(hide = true)]
    Manual {
        /// Where they go; made when it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Look into and feed a store while the agent is stopped.
    Outbox {
        #[command(subcommand)]
        command: OutboxCommand,
    },
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Make a private key and print what the configuration of a device needs of it.
    Keygen {
        /// Where the private key goes; only its owner may read the file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Name of the key.
        #[arg(long, default_value = "ops-1")]
        id: String,
    },
    /// Sign a command and print the payload to publish on `TOPIC/cmd/COMMAND`.
    Sign {
        /// The private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Name of the key, as on the device.
        #[arg(long)]
        id: String,
        /// Name of the device.
        #[arg(long)]
        device: String,
        /// A number above every one used with this key; the time in milliseconds when not given.
        #[arg(long)]
        counter: Option<u64>,
        /// The command.
        #[arg(long)]
        command: String,
        /// Its arguments, a JSON object.
        #[arg(long, default_value = "{}")]
        arguments: String,
        /// Not to be carried out after this, RFC 3339.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum VoteCommand {
    /// Replay a trace up to a moment and say why the vote there is what it is.
    Explain {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The trace, in CSV.
        #[arg(long, value_name = "TRACE.csv")]
        input: PathBuf,
        /// The moment, in seconds as in the trace; its end when not given.
        #[arg(long, value_name = "SECONDS")]
        at: Option<f64>,
        /// This quantity alone.
        #[arg(long, value_name = "ID")]
        quantity: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum SensorsCommand {
    /// The buses, and the kernel's own sensors as they are configured.
    List,
    /// Which addresses of an I2C bus answer, and as which chips; reads identity registers alone.
    Probe {
        /// The bus, such as /dev/i2c-1; all of them when not given.
        #[arg(long, value_name = "DEVICE")]
        bus: Option<PathBuf>,
    },
    /// One value of every configured sensor, or why there is none.
    Read {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The same again and again until interrupted.
    Watch {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Time between two rounds, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
        period_ms: u64,
        /// End after so many rounds.
        #[arg(long)]
        rounds: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
enum OutboxCommand {
    /// How full the store is, as JSON.
    Stat {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// What a restarted agent would still hold, one record a line.
    List {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// Check every record and change nothing; status 1 when something is missing.
    Verify {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// Print every record that is still there, delivered or not, one a line.
    Export {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
        /// An earlier life of the store.
        #[arg(long)]
        epoch: Option<u64>,
        /// Lowest sequence number.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Highest sequence number.
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
    },
    /// Print every intact record in the files of a store that is damaged or was set aside.
    Salvage {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
    /// Make each line of standard input a record and print its sequence number once it is durable.
    Append {
        /// The store.
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; everything else is usage, status 2.
            let code = error.exit_code();
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(outcome) => {
            let _ = writeln!(io::stderr(), "quorate: {outcome}");
            ExitCode::from(outcome.status())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Outcome> {
    let out = &mut io::stdout().lock();
    match command {
        Command::Run { config } => commands::run(&config),
        #[cfg(feature = "demo")]
        Command::Demo {
            keep,
            speed,
            listen,
        } => quorate::demo::run(
            &quorate::demo::Options {
                keep,
                speed,
                listen,
            },
            out,
        ),
        Command::Check { config } => commands::check(&config, out),
        Command::Replay {
            config,
            input,
            output,
        } => commands::replay(&config, &input, output.as_deref(), out),
        Command::Vote {
            command:
                VoteCommand::Explain {
                    config,
                    input,
                    at,
                    quantity,
                },
        } => commands::vote_explain(&config, &input, at, quantity.as_deref(), out),
        Command::Order { command } => order(command, out),
        Command::Status { json, address } => commands::status(address, json, out),
        Command::Doctor { config, json } => quorate::doctor::run(&config, json, out),
        Command::Events { json, address } => commands::events(address, json, out),
        #[cfg(feature = "collect")]
        Command::Collect(arguments) => quorate::collect::command(&arguments, out),
        Command::Sensors { command } => sensors(command, out),
        Command::Model { command } => quorate::model_command::run(&command, out),
        Command::ModelTrial {
            memory_bytes,
            cpu_s,
        } => quorate::model::trial_child::run(memory_bytes, cpu_s, out),
        #[cfg(feature = "manual")]
        Command::Manual { out: folder } => {
            quorate::manual::write(<Arguments as clap::CommandFactory>::command(), &folder)
        }
        Command::Outbox { command } => outbox(command, out),
    }
}

fn order(command: OrderCommand, out: &mut impl Write) -> Result<(), Outcome> {
    match command {
        OrderCommand::Keygen { out: file, id } => command_command::keygen(&file, &id, out),
        OrderCommand::Sign {
            key,
            id,
            device,
            counter,
            command,
            arguments,
            expires,
        } => {
            let order = command_command::Order {
                id,
                device,
                counter,
                command,
                arguments,
                expires,
            };
            command_command::sign(&key, order, out)
        }
    }
}

fn outbox(command: OutboxCommand, out: &mut impl Write) -> Result<(), Outcome> {
    match command {
        OutboxCommand::Stat { path } => commands::outbox_stat(&path, out),
        OutboxCommand::List { path } => commands::outbox_list(&path, out),
        OutboxCommand::Verify { path } => commands::outbox_verify(&path, out),
        OutboxCommand::Export {
            path,
            epoch,
            from,
            to,
        } => commands::outbox_export(&path, Export { epoch, from, to }, out),
        OutboxCommand::Salvage { path } => commands::outbox_salvage(&path, out),
        OutboxCommand::Append { path } => commands::outbox_append(&path, out),
    }
}

fn sensors(command: SensorsCommand, out: &mut impl Write) -> Result<(), Outcome> {
    match command {
        SensorsCommand::List => sensors_command::list(out),
        SensorsCommand::Probe { bus: Some(bus) } => sensors_command::probe(&bus, out),
        SensorsCommand::Probe { bus: None } => sensors_command::probe_all(out),
        SensorsCommand::Read { config } => sensors_command::read(&config, out),
        SensorsCommand::Watch {
            config,
            period_ms,
            rounds,
        } => sensors_command::watch(&config, Duration::from_millis(period_ms), rounds, out),
    }
}
