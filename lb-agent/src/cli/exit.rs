//! How a command ends: the errors it can end with and the exit code of each. Scripts depend on the numbers.

use std::path::PathBuf;
use std::process::ExitCode;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// Wrong usage or an invalid configuration. clap ends with the same number.
    Usage = 2,
    NotRunning = 3,
    NotPermitted = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("the agent is not running (no answer on {socket}); start it with: lb-agent run -c FILE")]
    NotRunning { socket: PathBuf },
    #[error("not permitted: {0}")]
    NotPermitted(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// The agent answered with a problem.
    #[error("{detail}")]
    Refused { status: u16, detail: String },
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotRunning { .. } => Exit::NotRunning,
            Self::NotPermitted(_) | Self::Refused { status: 401 | 403, .. } => Exit::NotPermitted,
            // 422 is a configuration that breaks a rule.
            Self::Usage(_) | Self::Refused { status: 422, .. } => Exit::Usage,
            Self::Failed(_) | Self::Refused { .. } => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_code_of_the_contract() {
        let refused = |status| CliError::Refused { status, detail: String::new() };
        for (error, code) in [
            (CliError::Failed(String::new()), 1),
            (refused(404), 1),
            (refused(409), 1),
            (refused(503), 1),
            (CliError::Usage(String::new()), 2),
            (refused(422), 2),
            (CliError::NotRunning { socket: PathBuf::new() }, 3),
            (CliError::NotPermitted(String::new()), 4),
            (refused(403), 4),
        ] {
            assert_eq!(error.exit() as u8, code, "{error:?}");
        }
    }
}
