//! As much of HTTP/1.1 as the tests' own clients need: one request on an open connection, over TCP or the agent's
//! socket. By hand, because a client library hides what is tested here: when a connection is opened, reused, given
//! up, and what exactly broke it.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const MAX_LINE: u64 = 8 << 10;
const MAX_HEADERS: usize = 100;
const MAX_BODY: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends `GET path` and reads the whole answer, after which the connection is ready for the next request.
pub(crate) async fn get(connection: &mut (impl AsyncBufRead + AsyncWrite + Unpin), path: &str) -> io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nAccept: */*\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    connection.flush().await?;
    read_answer(connection).await
}

async fn read_answer(connection: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Answer> {
    let first = line(connection).await?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| strange(format!("the answer starts with {first:?}")))?;
    let mut length = None;
    for _ in 0..MAX_HEADERS {
        let header = line(connection).await?;
        if header.is_empty() {
            let length = length.ok_or_else(|| strange("the answer does not say how long it is"))?;
            if length > MAX_BODY {
                return Err(strange(format!("the answer has {length} bytes")));
            }
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await?;
            let body = String::from_utf8(body).map_err(|_| strange("the answer is not text"))?;
            return Ok(Answer { status, body });
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    Err(strange("the answer has too many headers"))
}

/// A line without its end; an end of the connection within it is an error.
async fn line(connection: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut text = String::new();
    connection.take(MAX_LINE).read_line(&mut text).await?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.trim_end_matches('\r').to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the answer did")),
    }
}

fn strange(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(text: &str) -> io::Result<Answer> {
        read_answer(&mut tokio::io::BufReader::new(text.as_bytes())).await
    }

    #[tokio::test]
    async fn reads_an_answer_and_not_a_byte_more() {
        let two = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nb1\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        let mut reader = tokio::io::BufReader::new(two.as_bytes());
        let first = read_answer(&mut reader).await.expect("the first");
        assert_eq!(first, Answer { status: 200, body: "b1\n".into() });
        assert_eq!(read_answer(&mut reader).await.expect("the second").status, 503);
    }

    #[tokio::test]
    async fn a_broken_answer_is_an_error() {
        let cases = [
            ("", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nContent-Le", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nb1", io::ErrorKind::UnexpectedEof),
            ("SSH-2.0-x\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\n\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", io::ErrorKind::InvalidData),
        ];
        for (text, kind) in cases {
            assert_eq!(parse(text).await.unwrap_err().kind(), kind, "{text:?}");
        }
    }
}
