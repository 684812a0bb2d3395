//! `cargo run -p quorate-xtask -- check`: the house rules, without the rest of the tests.

use std::process::ExitCode;

use quorate_xtask::{RULES, Workspace, check};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to a person")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["check"] {
        eprintln!("usage: cargo run -p quorate-xtask -- check");
        return ExitCode::from(2);
    }
    let workspace = match Workspace::load() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let breaches = check(&workspace);
    for (rule, breach) in &breaches {
        eprintln!("{rule}: {breach}");
    }
    if !breaches.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("{} house rules hold", RULES.len());
    ExitCode::SUCCESS
}
