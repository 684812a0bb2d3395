//! `quorate lock` and `quorate elect`: something is done by one at a time.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use quorate_api::lease::format_id;
use quorate_api::lock::Holder;
use quorate_client::{HeldLock, LockOptions};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::args::{ClientArgs, ElectArgs, LockArgs};
use crate::exit::{Exit, Failure, note};
use crate::interrupt::{Interruptions, interrupted};
use crate::output::{Format, Output};
use crate::printable::printable;

/// How long a command may take to end once it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Before it is asked again who leads, when nobody could be.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn lock(args: LockArgs, client: &ClientArgs) -> Result<(), Failure> {
    if args.show {
        return show(&args.name, client).await;
    }
    let lock = Lock { what: "lock", name: &args.name, client };
    lock.take_and_hold(&args.options(), &args.command).await
}

pub(crate) async fn elect(args: ElectArgs, client: &ClientArgs) -> Result<(), Failure> {
    if args.observe {
        return observe(&args.name, client).await;
    }
    let lock = Lock { what: "election", name: &args.name, client };
    lock.take_and_hold(&args.options(), &args.command).await
}

async fn show(name: &str, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    let state = client.client().lock_state(client.keyspace(), name).await;
    let state = state.map_err(|error| Failure::of_request(format!("show lock `{}`", name.escape_debug()), &error))?;
    let state = state.ok_or_else(|| Failure::new(Exit::NotFound, format!("nobody holds lock `{}`", name.escape_debug())))?;
    let holder = &state.holder;
    match output.format {
        Format::Json => output.json(&quorate_api::lock::LockBody {
            holder: holder.to_body(),
            waiting: state.waiting,
            revision: state.revision,
        })?,
        Format::Raw => {
            output.bytes(&holder.value)?;
            output.bytes(b"\n")?;
        }
        Format::Table => {
            let rows = [
                ("lease", format_id(holder.lease)),
                ("token", holder.token.to_string()),
                ("key", printable(&holder.key)),
                ("value", printable(&holder.value)),
                ("waiting", state.waiting.to_string()),
            ];
            output.table(&["FIELD", "VALUE"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]))?;
        }
    }
    output.flush()
}

/// A line for each leader, until the command is ended.
async fn observe(name: &str, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    let mut observer = client.client().observe_lock(client.keyspace(), name);
    loop {
        let holder = tokio::select! {
            () = interrupted() => return output.flush(),
            next = observer.next() => next,
        };
        match holder {
            Ok(holder) => tell_leader(&mut output, holder.as_ref())?,
            Err(error) if error.problem().is_some_and(|problem| problem.status < 500 && !problem.retryable) => {
                return Err(Failure::of_request(format!("observe election `{}`", name.escape_debug()), &error));
            }
            Err(error) => {
                note(format_args!("quorate: nobody can say who leads: {error}; asking again"));
                sleep(PAUSE).await;
            }
        }
    }
}

fn tell_leader(output: &mut Output, holder: Option<&Holder>) -> Result<(), Failure> {
    match (output.format, holder) {
        (Format::Json, holder) => output.json(&holder.map(Holder::to_body))?,
        (Format::Raw, holder) => {
            output.bytes(holder.map_or(&[], |holder| &holder.value))?;
            output.bytes(b"\n")?;
        }
        (Format::Table, Some(holder)) => {
            output.line(format_args!("`{}` leads, with token {}", printable(&holder.value), holder.token))?;
        }
        (Format::Table, None) => output.line("nobody leads")?,
    }
    output.flush()
}

struct Lock<'a> {
    /// What it is to its user.
    what: &'a str,
    name: &'a str,
    client: &'a ClientArgs,
}

impl Lock<'_> {
    async fn take_and_hold(&self, options: &LockOptions, command: &[OsString]) -> Result<(), Failure> {
        let mut interruptions = Interruptions::listen();
        let is_interrupted = Cell::new(false);
        let cancelled = async {
            interruptions.next().await;
            is_interrupted.set(true);
        };
        let client = self.client.client();
        let held = client.lock_unless(self.client.keyspace(), self.name, options, cancelled).await;
        let held = held.map_err(|error| Failure::of_repeatable(format!("take {self}"), &error))?;
        let held = match held {
            Some(held) => held,
            None if is_interrupted.get() => return Err(Failure::failed(format!("interrupted while waiting for {self}"))),
            None => return Err(self.held_by_another().await),
        };
        let ended = match command {
            [] => self.hold(&held, &mut interruptions).await,
            command => self.run(&held, command, &mut interruptions).await,
        };
        if let Err(error) = held.release().await {
            note(format_args!("quorate: {self} could not be given up, and stays held for its time: {error}"));
        }
        ended
    }

    async fn held_by_another(&self) -> Failure {
        let state = self.client.client().lock_state(self.client.keyspace(), self.name).await;
        let by = state.ok().flatten().map_or_else(String::new, |state| {
            let Holder { lease, token, value, .. } = state.holder;
            let value = if value.is_empty() { String::new() } else { format!(" (`{}`)", printable(&value)) };
            format!(" by lease {}{value}, with token {token}", format_id(lease))
        });
        Failure::new(Exit::ConditionFailed, format!("{self} is held{by}"))
    }

    /// Until the command is ended.
    async fn hold(&self, held: &HeldLock, interruptions: &mut Interruptions) -> Result<(), Failure> {
        let mut output = Output::new(self.client.output.unwrap_or(Format::Table));
        let (token, lease) = (held.token(), format_id(held.lease()));
        match output.format {
            Format::Json => output.json(&serde_json::json!({"token": token, "lease": lease, "key": printable(held.key())}))?,
            Format::Raw => output.line(token)?,
            Format::Table => {
                output.line(format_args!("{self} is held by lease {lease}, with token {token}; Ctrl-C gives it up"))?;
            }
        }
        output.flush()?;
        tokio::select! {
            () = interruptions.next() => Ok(()),
            () = held.lost() => Err(Failure::failed(format!("{self} is lost"))),
        }
    }

    /// As long as the command runs, which is told what holds the lock, and is ended if that is lost.
    async fn run(&self, held: &HeldLock, command: &[OsString], interruptions: &mut Interruptions) -> Result<(), Failure> {
        let (program, arguments) = command.split_first().expect("there is a command");
        let child = Command::new(program)
            .args(arguments)
            .env("QUORATE_LOCK_NAME", self.name)
            .env("QUORATE_LOCK_TOKEN", held.token().to_string())
            .env("QUORATE_LOCK_LEASE", format_id(held.lease()))
            .env("QUORATE_LOCK_KEY", printable(held.key()))
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| Failure::failed(format!("cannot run {}: {error}", program.display())))?;
        tokio::select! {
            status = child.wait() => ended(status.map_err(|error| Failure::failed(format!("cannot wait: {error}")))?),
            () = interruptions.next() => match stop(&mut child).await {
                Some(status) => ended(status),
                None => Err(Failure::failed(format!("{} did not stop, and was killed", program.display()))),
            },
            () = held.lost() => {
                stop(&mut child).await;
                Err(Failure::failed(format!("{self} is lost, and {} was ended", program.display())))
            }
        }
    }
}

impl std::fmt::Display for Lock<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`", self.what, self.name.escape_debug())
    }
}

/// Asks a process to end, and kills it if it does not. None if it had to be killed.
async fn stop(child: &mut Child) -> Option<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // One that has ended meanwhile is what was wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(Ok(status)) = timeout(STOP_LIMIT, child.wait()).await {
        return Some(status);
    }
    let _ = child.kill().await;
    None
}

/// This command ends as the one that it ran: with its exit code, or as shells tell of a signal.
fn ended(status: ExitStatus) -> Result<(), Failure> {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        code => Err(Failure::AsCommand(code.unwrap_or(1))),
    }
}
