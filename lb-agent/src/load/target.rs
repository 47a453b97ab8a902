//! Where requests go: the host, port and path of a plain HTTP URL, checked once so that nothing later has to.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use hyper::header::HeaderValue;

/// A URL that this generator can drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address without brackets, as name resolution wants it.
    host: String,
    port: u16,
    /// What the `Host` header says: brackets around IPv6, and the port unless it is 80.
    authority: String,
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("`{0}` is not a URL; write http://host:port/path, with an IPv6 address in brackets")]
    Invalid(String),
    #[error(
        "https is not supported: the balancer works on connections, so the generator measures plain HTTP; \
         use an http:// URL"
    )]
    Https,
    #[error("`{0}://` is not supported; use an http:// URL")]
    Scheme(String),
    #[error("the URL has no scheme; write http://{0}")]
    NoScheme(String),
    #[error("the URL holds a user name or password, which the generator does not send; remove it")]
    UserInfo,
    #[error("port 0 cannot be connected to; name the server's port")]
    PortZero,
}

impl Target {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The `Host` header.
    pub(super) fn host_header(&self) -> Result<HeaderValue, TargetError> {
        HeaderValue::from_str(&self.authority).map_err(|_| TargetError::Invalid(self.to_string()))
    }

    /// The request line's target.
    pub(super) fn request_uri(&self) -> Result<Uri, TargetError> {
        Uri::from_str(&self.path).map_err(|_| TargetError::Invalid(self.to_string()))
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let invalid = || TargetError::Invalid(text.chars().filter(|c| !c.is_control()).take(200).collect());
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(if text.is_empty() || text.contains(char::is_whitespace) {
                invalid()
            } else {
                TargetError::NoScheme(text.to_owned())
            });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(TargetError::Https),
            other if other.chars().all(|c| c.is_ascii_alphanumeric()) && !other.is_empty() => {
                return Err(TargetError::Scheme(other.to_owned()));
            }
            _ => return Err(invalid()),
        }
        // A fragment is the browser's business and never sent.
        let rest = rest.split('#').next().unwrap_or(rest);
        let uri = Uri::from_str(&format!("http://{rest}")).map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::UserInfo);
        }
        let bracketed = authority.host();
        let host = match bracketed.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?.to_string(),
            None => bracketed.to_owned(),
        };
        if host.is_empty() {
            return Err(invalid());
        }
        let port = match authority.as_str().strip_prefix(bracketed).unwrap_or_default() {
            "" => 80,
            with_colon => with_colon.trim_start_matches(':').parse::<u16>().map_err(|_| invalid())?,
        };
        if port == 0 {
            return Err(TargetError::PortZero);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = if port == 80 { name } else { format!("{name}:{port}") };
        Ok(Self { host, port, authority, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_urls() {
        let check = |text: &str, host: &str, port: u16, path: &str, shown: &str| {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((target.host(), target.port(), target.path()), (host, port, path), "{text}");
            assert_eq!(target.to_string(), shown);
            target.host_header().expect("a header");
            target.request_uri().expect("a request target");
        };
        check("http://192.0.2.10:8080/a?b=c", "192.0.2.10", 8080, "/a?b=c", "http://192.0.2.10:8080/a?b=c");
        check("http://192.0.2.10", "192.0.2.10", 80, "/", "http://192.0.2.10/");
        check("HTTP://localhost:80/", "localhost", 80, "/", "http://localhost/");
        check("http://[2001:db8::1]:81", "2001:db8::1", 81, "/", "http://[2001:db8::1]:81/");
        check("http://[::1]/x#part", "::1", 80, "/x", "http://[::1]/x");
        check("http://host?q=1", "host", 80, "/?q=1", "http://host/?q=1");
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        };
        check("https://example.org/", "https is not supported");
        check("HTTPS://example.org/", "https is not supported");
        check("ftp://example.org/", "`ftp://` is not supported");
        check("192.0.2.10:80/", "write http://192.0.2.10:80/");
        check("", "is not a URL");
        check("http://", "is not a URL");
        check("http://:80/", "is not a URL");
        check("http://::1/", "is not a URL");
        check("http://[::1/", "is not a URL");
        check("http://[nonsense]/", "is not a URL");
        check("http://host:99999/", "is not a URL");
        check("http://host:0/", "port 0");
        check("http://user:secret@host/", "user name or password");
        check("http://ho st/", "is not a URL");
    }

    proptest! {
        #[test]
        fn no_input_panics_and_what_is_read_reads_back(text in "(http://)?\\PC{0,60}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target.clone()));
                prop_assert!(target.host_header().is_ok() && target.request_uri().is_ok());
            }
        }
    }
}
