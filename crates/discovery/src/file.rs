//! Addresses from a file: one a line. It is read whenever it is asked for, so a change counts from the next look on.

use std::io::Read as _;
use std::path::Path;

use crate::Problem;
use crate::address::split_address;

/// Far more than addresses need; what is larger is another file.
const MAX_BYTES: u64 = 1 << 20;

/// The addresses that the file names.
pub(crate) async fn read(path: &Path) -> Result<Vec<String>, Problem> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    let text = match read.await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(Problem::Failed(format!("cannot read the file: {error}"))),
        Err(error) => return Err(Problem::Failed(error.to_string())),
    };
    if text.len() as u64 > MAX_BYTES {
        return Err(Problem::Failed(format!("the file is larger than {} KiB: it is no list of addresses", MAX_BYTES >> 10)));
    }
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<String>, Problem> {
    let mut addresses = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        split_address(line).map_err(|why| Problem::Failed(format!("line {} {why}", number + 1)))?;
        addresses.push(line.to_owned());
    }
    if addresses.is_empty() { Err(Problem::Nothing("the file names no address".to_owned())) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::{parse, read};
    use crate::Problem;

    #[test]
    fn one_address_a_line_and_words_for_people() {
        let text = "# the nodes\n\n db1:2379 # the first\n\t[::1]:2379\r\n";
        assert_eq!(parse(text).unwrap(), ["db1:2379", "[::1]:2379"]);
        assert!(matches!(parse("# none\n"), Err(Problem::Nothing(_))));
        let error = parse("a:1\nhttp://b:1\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2 is `http://b:1`"), "{error}");
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_only_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes");
        assert!(matches!(read(&path).await, Err(Problem::Failed(_))));
        for (text, found) in [("a:1\n", vec!["a:1"]), ("a:1\nb:2\n", vec!["a:1", "b:2"])] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).await.unwrap(), found);
        }
        std::fs::write(&path, "a:1\n".repeat(1 << 19)).unwrap();
        let error = read(&path).await.unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
