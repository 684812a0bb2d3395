//! `quorate discover`: what specifications for `--join` find now, and why not.

use quorate_discovery::{Discovery, Found, Options, Problem, Spec, SpecError};
use serde_json::json;

use crate::args::{ClientArgs, DiscoverArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};

pub(crate) async fn run(args: DiscoverArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let read = args.specs().iter().map(|text| text.parse()).collect::<Result<Vec<Spec>, SpecError>>();
    let specs = read.map_err(|error| Failure::usage(error.to_string()))?;
    // Nothing is registered: it only looks.
    let discovery = Discovery::start(specs, Options { dns_servers: args.dns.dns_servers.unwrap_or_default(), entry: None });
    let found = discovery.find().await;
    discovery.withdraw().await;
    match output.format {
        Format::Json => {
            let items = found.iter().map(|Found { spec, addresses, problem }| {
                json!({
                    "spec": spec.to_string(),
                    "addresses": addresses,
                    "problem": problem.as_ref().map(ToString::to_string),
                })
            });
            output.json(&json!({ "items": items.collect::<Vec<_>>() }))?;
        }
        _ => output.table(&["SPEC", "FINDS"], found.iter().flat_map(rows))?,
    }
    output.finish()?;
    failure(&found).map_or(Ok(()), Err)
}

fn rows(Found { spec, addresses, problem }: &Found) -> Vec<Vec<String>> {
    let finds = addresses.iter().cloned().chain(problem.iter().map(|problem| format!("({problem})")));
    finds.map(|finds| vec![spec.to_string(), finds]).collect()
}

/// The worst of what was found.
fn failure(found: &[Found]) -> Option<Failure> {
    let problems = || found.iter().filter_map(|found| Some((found, found.problem.as_ref()?)));
    let failed = problems().find(|(_, problem)| matches!(problem, Problem::Failed(_)));
    let (exit, (found, problem)) = match failed {
        Some(failed) => (Exit::Failed, failed),
        None => (Exit::NotFound, problems().next()?),
    };
    Some(Failure::new(exit, format!("{}: {problem}", found.spec)))
}
