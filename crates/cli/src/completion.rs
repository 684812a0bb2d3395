//! Completion in shells, with what the cluster holds: the script of `quorate completions` calls the program again, with the
//! command line as it stands, and shows what it answers.

mod bash;
mod live;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::env::{Elvish, Fish, Powershell, Shells, Zsh};

use crate::args::{Cli, Shell};
use crate::exit::{Failure, note};

pub(crate) use live::{engines, keys, keyspaces, modes, nodes};

/// Names the shell that asks for completion, instead of running a command.
const VARIABLE: &str = "COMPLETE";

const PROGRAM: &str = "quorate";

const SHELLS: Shells<'static> = Shells(&[&bash::Bash, &Elvish, &Fish, &Powershell, &Zsh]);

/// Answers a shell that asks for completion; `None` if nobody does. Blocks for a moment if a node must be asked.
pub(crate) fn maybe_answer() -> Option<ExitCode> {
    let shell = std::env::var_os(VARIABLE)?;
    let words: Vec<OsString> = std::env::args_os().collect();
    // All others send the words of the line.
    if Path::new(&shell).file_stem() != Some(bash::NAME.as_ref()) {
        live::look_at(words.iter().skip_while(|word| *word != "--").skip(1));
    }
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(Cli::command).var(VARIABLE).shells(SHELLS).try_complete(words, here.as_deref()) {
        Ok(is_asked_for) => is_asked_for.then_some(ExitCode::SUCCESS),
        Err(error) => {
            note(format_args!("quorate: cannot complete: {error}"));
            Some(ExitCode::FAILURE)
        }
    }
}

/// The script that makes a shell ask.
pub(crate) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let completer = SHELLS.completer(shell.name()).expect("each shell that can be named has a completer");
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, &this_program(), &mut script)?;
    Ok(script)
}

/// How this program was called, from any folder.
fn this_program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| PROGRAM.into());
    let path = Path::new(&called);
    let is_bare_name = path.components().count() == 1;
    let path = if is_bare_name { path.to_owned() } else { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) };
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::script;
    use crate::args::Shell;

    #[test]
    fn every_shell_has_a_script_that_calls_the_program() {
        for &shell in Shell::value_variants() {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(script.contains("COMPLETE") && script.contains(shell.name()), "{script}");
        }
    }
}
