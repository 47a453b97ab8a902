//! A range of addresses as people write it: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Its bits behind the length are zero.
    address: IpAddr,
    length: u8,
}

impl Prefix {
    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// All addresses of the family of `address`.
    pub fn any(address: IpAddr) -> Self {
        Self { address: first(address, 0), length: 0 }
    }
}

/// The address with its bits behind the length cleared.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let wrong = || "write an address or a range, for example 10.0.0.1, 10.0.0.0/24 or 2001:db8::/32".to_owned();
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => match length.parse::<u8>() {
                Ok(length) if length <= longest => length,
                _ => return Err(format!("the length of {text} is not a number from 0 to {longest}")),
            },
        };
        let clean = first(address, length);
        if clean != address {
            return Err(format!("{text} has bits behind its length; write {clean}/{length}"));
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let rows = [
            ("10.0.0.1", Ok("10.0.0.1/32")),
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::/0", Ok("::/0")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("2001:db8::1", Ok("2001:db8::1/128")),
            ("10.0.0.1/8", Err("write 10.0.0.0/8")),
            ("2001:db8::1/64", Err("write 2001:db8::/64")),
            ("10.0.0.0/33", Err("from 0 to 32")),
            ("::/129", Err("from 0 to 128")),
            ("10.0.0.0/", Err("from 0 to 32")),
            ("10.0.0.0/-1", Err("from 0 to 32")),
            ("eth0", Err("write an address or a range")),
            ("", Err("write an address or a range")),
        ];
        for (text, expected) in rows {
            match (text.parse::<Prefix>(), expected) {
                (Ok(prefix), Ok(expected)) => assert_eq!(prefix.to_string(), expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (seen, _) => panic!("{text}: {seen:?}"),
            }
        }
    }

    #[test]
    fn any_is_all_of_a_family() {
        assert_eq!(Prefix::any("10.1.2.3".parse().unwrap()).to_string(), "0.0.0.0/0");
        assert_eq!(Prefix::any("2001:db8::7".parse().unwrap()).to_string(), "::/0");
    }
}
