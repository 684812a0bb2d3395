//! The examples for orchestrators in `docs/examples`: they are what they say that they are, and start nodes with flags that there
//! are.

use std::fs;
use std::path::Path;
use std::process::Command;

use saphyr::{LoadableYamlNode as _, Yaml};

use crate::calls::call;

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples").join(name)).unwrap()
}

fn words(list: &Yaml) -> Vec<String> {
    list.as_sequence().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The program takes all of it: with one limit that cannot be beside them, that is what it complains about.
#[track_caller]
fn assert_starts(arguments: &[String]) {
    assert_eq!(arguments[0], "server");
    let concrete = |word: &String| word.replace("$(POD_NAME)", "quorate-0").replace("%H", "db1");
    let mut arguments: Vec<String> = arguments.iter().map(concrete).collect();
    arguments.extend(["--election-ms".to_owned(), "1".to_owned()]);
    let called = call(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    assert!(called.exit == 2 && called.stderr.starts_with("quorate: election_ms is 1"), "{called:?}");
}

#[test]
fn the_stateful_set_starts_nodes() {
    let documents = Yaml::load_from_str(&example("kubernetes.yaml")).unwrap();
    let kinds: Vec<&str> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Service", "Service", "PodDisruptionBudget", "StatefulSet"]);
    let set = &documents[3]["spec"];
    assert_eq!(set["podManagementPolicy"].as_str(), Some("Parallel"));
    assert_eq!(set["serviceName"].as_str(), documents[0]["metadata"]["name"].as_str());
    let pod = &set["template"]["spec"];
    let arguments = words(&pod["containers"][0]["args"]);
    assert_starts(&arguments);
    let replicas = set["replicas"].as_integer().unwrap();
    assert!(arguments.contains(&format!("--expect={replicas}")), "as many as are expected: {arguments:?}");
    assert!(pod["terminationGracePeriodSeconds"].as_integer().unwrap() > 35, "a stop may take 30 s after 5 s");
}

#[test]
fn the_compose_file_starts_nodes() {
    let documents = Yaml::load_from_str(&example("compose.yaml")).unwrap();
    let [document] = documents.as_slice() else { panic!("{} documents", documents.len()) };
    let arguments = words(&document["x-node"]["command"]);
    let services = document["services"].as_mapping().unwrap();
    assert!(arguments.contains(&format!("--expect={}", services.len())), "{arguments:?}");
    for (name, service) in services {
        let environment = service["environment"].as_mapping().unwrap();
        let set = environment.iter().map(|(name, value)| (name.as_str().unwrap(), value.as_str().unwrap()));
        // Each has its twin among the flags.
        let flags = set.map(|(name, value)| {
            let flag = name.strip_prefix("QUORATE_").unwrap().to_lowercase().replace('_', "-");
            format!("--{flag}={value}")
        });
        let with_name: Vec<String> = arguments.iter().cloned().chain(flags).collect();
        assert_starts(&with_name);
        assert!(with_name.contains(&format!("--name={}", name.as_str().unwrap())), "{with_name:?}");
    }
}

#[test]
fn the_unit_starts_a_node() {
    let text = example("quorate.service");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/quorate ")).unwrap();
    assert_starts(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for section in ["[Unit]", "[Service]", "[Install]"] {
        assert_eq!(text.lines().filter(|line| *line == section).count(), 1, "{section}");
    }
    let is_line = |line: &str| {
        line.is_empty()
            || line.starts_with(['#', '['])
            || line
                .split_once('=')
                .is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    assert_eq!(text.lines().find(|line| !is_line(line)), None);

    // systemd reads it too, where it is there; it wants to see the program.
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("quorate.service");
    fs::write(&unit, text.replace("/usr/local/bin/quorate", env!("CARGO_BIN_EXE_quorate"))).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&unit).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let complaints: Vec<&str> = told.lines().filter(|line| line.contains("quorate.service")).collect();
            assert!(complaints.is_empty(), "{told}");
        }
        Err(error) => println!("systemd-analyze is not there: {error}"),
    }
}
