//! Bearer tokens (RFC 6750): several may hold at a time, so that one can follow another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{header, HeaderMap};
use subtle::ConstantTimeEq;

use super::files::FromFiles;

type Texts = Vec<Vec<u8>>;

#[derive(Default)]
pub struct Tokens {
    given: Texts,
    pub file: Option<Arc<FromFiles<Texts>>>,
}

impl Tokens {
    /// `file` has one token a line, and is read again where it changes.
    pub fn new(given: Texts, file: Option<PathBuf>, interval: Duration) -> Result<Self, String> {
        if given.iter().any(Vec::is_empty) {
            return Err("a token must not be empty".into());
        }
        let file = file.map(|path| FromFiles::open(vec![path], interval, lines)).transpose()?.map(Arc::new);
        Ok(Self { given, file })
    }

    /// Whether one of the tokens came with the request; always where there are none.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        if self.given.is_empty() && self.file.is_none() {
            return true;
        }
        let Some(token) = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()))
        else {
            return false;
        };
        // All are looked at, however early one fits; only lengths can be told from the time it takes.
        let fits =
            |tokens: &Texts| tokens.iter().fold(0, |fits, known| fits | known.ct_eq(token).unwrap_u8());
        fits(&self.given) | self.file.as_ref().map_or(0, |file| fits(&file.current())) == 1
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn lines(contents: &[Vec<u8>]) -> Result<Texts, String> {
    let lines = contents[0].split(|byte| *byte == b'\n').map(|line| line.trim_ascii().to_vec());
    let tokens: Texts = lines.filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err("there is no token in the file".into());
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn any_of_the_tokens_admits_and_nothing_else_does() {
        let tokens = Tokens::new(vec![b"old".to_vec(), b"new".to_vec()], None, Duration::ZERO).unwrap();
        for value in ["Bearer old", "bearer new", "BEARER  new "] {
            assert!(tokens.admit(&headers(value)), "{value}");
        }
        for value in ["Bearer ol", "Bearer oldx", "Bearer ", "Bearer", "Basic old", "old", ""] {
            assert!(!tokens.admit(&headers(value)), "{value}");
        }
        assert!(!tokens.admit(&HeaderMap::new()));
        assert!(Tokens::default().admit(&HeaderMap::new()));
        assert!(Tokens::new(vec![Vec::new()], None, Duration::ZERO).is_err());
    }

    #[test]
    fn a_file_has_a_token_a_line() {
        assert_eq!(lines(&[b"a\r\n\n b \n".to_vec()]), Ok(vec![b"a".to_vec(), b"b".to_vec()]));
        assert!(lines(&[b"\n".to_vec()]).is_err());
    }
}
