//! Names, paths and other text: what a user chooses freely and what later stands in commands, files, requests and
//! terminals, so each is held to what is harmless there.

use std::path::PathBuf;

use super::limits;
use super::report::{fault, is_unprintable, shown};
use super::values::Parsed;

/// Names of services and zones.
pub(super) fn name(text: &str) -> Parsed<String> {
    checked_name(text, "._:-")
}

/// Brackets are allowed because of the default name, `[2001:db8::1]:80`.
pub(super) fn backend_name(text: &str) -> Parsed<String> {
    checked_name(text, "._:-[]")
}

pub(super) fn label_name(text: &str) -> Parsed<String> {
    checked_name(text, "._/-")
}

fn checked_name(text: &str, marks: &str) -> Parsed<String> {
    let mend = || format!("use 1 to {} characters of A-Z, a-z, 0-9 and {marks}", limits::MAX_NAME_CHARS);
    if text.is_empty() {
        return Err(fault("the name is empty", mend()));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c)) {
        return Err(fault(format!("{} has the character {} in it", shown(text), shown(&c.to_string())), mend()));
    }
    if text.len() > limits::MAX_NAME_CHARS {
        return Err(fault(format!("{} has {} characters", shown(text), text.len()), mend()));
    }
    Ok(text.to_owned())
}

pub(super) fn label_value(text: &str) -> Parsed<String> {
    if text.chars().count() > limits::MAX_LABEL_VALUE_CHARS || text.chars().any(is_unprintable) {
        let mend = format!("use up to {} printable characters", limits::MAX_LABEL_VALUE_CHARS);
        return Err(fault(format!("{} is too long or not printable", shown(text)), mend));
    }
    Ok(text.to_owned())
}

/// What the kernel takes as a name of an interface.
pub(super) fn interface(text: &str) -> Parsed<String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || is_unprintable(c);
    if text.is_empty()
        || text.len() > limits::MAX_INTERFACE_NAME_BYTES
        || matches!(text, "." | "..")
        || text.contains(bad)
    {
        return Err(fault(
            format!("{} is not the name of an interface", shown(text)),
            format!(
                "use 1 to {} bytes without spaces, `/` and `:` (`ip link` lists them)",
                limits::MAX_INTERFACE_NAME_BYTES
            ),
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn directory(text: &str) -> Parsed<PathBuf> {
    absolute_path(text, limits::MAX_PATH_BYTES)
}

pub(super) fn socket_path(text: &str) -> Parsed<PathBuf> {
    absolute_path(text, limits::MAX_SOCKET_PATH_BYTES)
}

fn absolute_path(text: &str, max_bytes: usize) -> Parsed<PathBuf> {
    if text.contains(is_unprintable) {
        return Err(fault(format!("{} has control characters in it", shown(text)), "use printable characters"));
    }
    if !text.starts_with('/') {
        return Err(fault(format!("{} is not an absolute path", shown(text)), "use a path that begins with `/`"));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(fault(format!("{} goes up with `..`", shown(text)), "write the path that is meant"));
    }
    if text.len() > max_bytes {
        return Err(fault(
            format!("the path has {} bytes", text.len()),
            format!("use a path of up to {max_bytes} bytes"),
        ));
    }
    Ok(PathBuf::from(text))
}

/// The target of an HTTP request; it is sent as it stands, so nothing may end the request line early.
pub(super) fn health_path(text: &str) -> Parsed<String> {
    if !text.starts_with('/') {
        return Err(fault(format!("{} does not begin with `/`", shown(text)), "use a path such as `/health`"));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(fault(
            format!("{} has the character {} in it", shown(text), shown(&c.to_string())),
            "use printable ASCII, and percent-encode the rest (a space is `%20`)",
        ));
    }
    if text.len() > limits::MAX_HEALTH_PATH_BYTES {
        let mend = format!("use up to {} bytes", limits::MAX_HEALTH_PATH_BYTES);
        return Err(fault(format!("the path has {} bytes", text.len()), mend));
    }
    Ok(text.to_owned())
}

/// What a UDP check sends or looks for.
pub(super) fn datagram(text: &str) -> Parsed<String> {
    if text.len() > limits::MAX_HEALTH_DATAGRAM_BYTES {
        let mend = format!("use up to {} bytes", limits::MAX_HEALTH_DATAGRAM_BYTES);
        return Err(fault(format!("the text has {} bytes", text.len()), mend));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::values::tests::check;
    use super::*;

    #[test]
    fn names_and_paths() {
        check(
            name,
            &[
                ("web-1.a:b_c", Ok("\"web-1.a:b_c\"")),
                ("", Err("1 to 64")),
                ("a/b", Err("1 to 64")),
                ("ä", Err("1 to 64")),
            ],
        );
        check(name, &[(&"n".repeat(65), Err("1 to 64")), ("[x]", Err("1 to 64")), ("a\nb", Err("1 to 64"))]);
        check(backend_name, &[("[2001:db8::1]:80", Ok("\"[2001:db8::1]:80\""))]);
        check(interface, &[("eth0", Ok("\"eth0\"")), ("enp3s0.100", Ok("\"enp3s0.100\""))]);
        check(
            interface,
            &["", "sixteen-bytes-xx", "a/b", "a b", "..", "a:b", "a\u{0}b"].map(|text| (text, Err("ip link"))),
        );
        check(socket_path, &[("/run/lb.sock", Ok("\"/run/lb.sock\"")), ("run/lb.sock", Err("begins with `/`"))]);
        check(
            socket_path,
            &[(&format!("/{}", "s".repeat(107)), Err("up to 107 bytes")), ("/a\u{0}b", Err("printable"))],
        );
        check(directory, &[("/run/../etc", Err("the path that is meant"))]);
        check(health_path, &[("/health?full=1", Ok("\"/health?full=1\"")), ("health", Err("`/health`"))]);
        check(health_path, &["/a b", "/a\r\nHost: x", "/ä", "/\u{7f}"].map(|text| (text, Err("percent-encode"))));
    }
}
