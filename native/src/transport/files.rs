//! Something that is made of files, and made anew when they change: certificates, tokens.
//!
//! The content is compared and not the time of change: files are small, a looked-up symbolic link is what
//! Kubernetes swaps, and a clock that was set says nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A chain of certificates has a few KiB, a bundle of authorities some hundred.
const MAX_BYTES: u64 = 4 << 20;

type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

pub struct FromFiles<T> {
    pub paths: Vec<PathBuf>,
    pub interval: Duration,
    make: Box<Make<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    made: Arc<T>,
    /// Of the files when they were last looked at, whether or not they were fit.
    seen: Result<Vec<Vec<u8>>, String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Same,
    Reloaded,
    /// What there was stays in use.
    Unfit(String),
}

impl<T> FromFiles<T> {
    /// `make` gets the contents in the order of `paths`.
    pub fn open(
        paths: Vec<PathBuf>,
        interval: Duration,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let seen = read_all(&paths)?;
        let made = Arc::new(make(&seen)?);
        let state = Mutex::new(State { made, seen: Ok(seen) });
        Ok(Self { paths, interval, make: Box::new(make), state })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn current(&self) -> Arc<T> {
        self.state().made.clone()
    }

    /// Reads the files; to be called from a thread that may block. What is unfit is told once.
    pub fn look(&self) -> Look {
        let seen = read_all(&self.paths);
        if seen == self.state().seen {
            return Look::Same;
        }
        let made = seen.as_ref().map_err(String::clone).and_then(|contents| (self.make)(contents));
        let mut state = self.state();
        state.seen = seen;
        match made {
            Ok(made) => {
                state.made = Arc::new(made);
                Look::Reloaded
            }
            Err(reason) => Look::Unfit(reason),
        }
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(told)?.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(told)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(told)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("{} is longer than {} MiB", path.display(), MAX_BYTES >> 20));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfit_is_told_once_and_what_was_stays() {
        let path = std::env::temp_dir().join(format!("enricher-files-{}", std::process::id()));
        fs::write(&path, "1").unwrap();
        let number = |contents: &[Vec<u8>]| {
            String::from_utf8_lossy(&contents[0]).parse::<u32>().map_err(|error| error.to_string())
        };
        let found = FromFiles::open(vec![path.clone()], Duration::ZERO, number).unwrap();
        assert_eq!((*found.current(), found.look()), (1, Look::Same));
        fs::write(&path, "2").unwrap();
        assert_eq!((found.look(), *found.current(), found.look()), (Look::Reloaded, 2, Look::Same));
        fs::write(&path, "two").unwrap();
        assert!(matches!(found.look(), Look::Unfit(_)));
        assert_eq!((found.look(), *found.current()), (Look::Same, 2));
        fs::remove_file(&path).unwrap();
        assert!(matches!(found.look(), Look::Unfit(reason) if reason.contains("No such file")));
        assert_eq!((found.look(), *found.current()), (Look::Same, 2));
        fs::write(&path, "3").unwrap();
        assert_eq!((found.look(), *found.current()), (Look::Reloaded, 3));
        fs::remove_file(&path).unwrap();
        assert!(FromFiles::open(vec![path], Duration::ZERO, number).is_err());
    }
}
