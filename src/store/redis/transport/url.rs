//! Parses URLs of servers strictly: every part is used or refused. A part that is silently ignored
//! could be a password, a database or a TLS setting that the caller relies on. Error messages
//! repeat nothing of a URL except names of parameters.

use crate::{
    model::error::{Error, Result},
    store::redis::transport::address::Address,
};
use percent_encoding::percent_decode_str;
use std::net::Ipv6Addr;

/// Advice that applies to any malformed URL.
const ENCODE: &str = "percent-encode what is not a letter or digit in user and password";

/// The decoded parts of a URL.
#[derive(Debug, Default, PartialEq)]
pub struct Url {
    pub scheme: String,
    pub login: Login,
    /// Hosts, with their ports if given.
    pub hosts: Vec<(String, Option<u16>)>,
    /// The path without its first slash, not decoded; `None` without a path.
    pub path: Option<String>,
    /// The parameter `db` of the query.
    pub db: Option<i64>,
    /// `#insecure`: accept any certificate.
    pub insecure: bool,
}

/// The credentials. A user without a password is one that does not need one (`nopass`).
#[derive(Clone, Default, PartialEq)]
pub struct Login {
    pub username: Option<String>,
    pub password: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    pub fn new(username: Option<String>, password: Option<String>) -> Login {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let username = some(username);
        let password = some(password).or_else(|| username.as_ref().map(|_| String::new()));
        Login { username, password }
    }
}

impl Url {
    /// `login_in_query`: user and password are parameters, as in URLs of unix sockets, which have
    /// no host.
    pub fn parse(url: &str, login_in_query: bool) -> Result<Url> {
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Error::invalid(
                "url: spaces and control characters must be percent-encoded",
            ));
        }
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| Error::invalid("url must have the form scheme://…"))?;
        let (rest, fragment) = split(rest, '#');
        let (rest, query) = split(rest, '?');
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        if [fragment, query, path]
            .iter()
            .flatten()
            .any(|part| part.contains('@'))
        {
            return Err(Error::invalid(format!(
                "url: an @ after the host; {ENCODE}"
            )));
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (parse_login(login)?, hosts),
            None => (Login::default(), authority),
        };
        let mut parsed = Url {
            scheme: scheme.into(),
            login,
            hosts: parse_hosts(hosts)?,
            path: path.map(Into::into),
            ..Url::default()
        };
        parsed.take_query(query, login_in_query)?;
        parsed.insecure = match fragment {
            None => false,
            Some("insecure") => true,
            Some(_) => {
                return Err(Error::invalid(format!(
                    "url: the only fragment there is is #insecure; {ENCODE}"
                )));
            }
        };
        Ok(parsed)
    }

    fn take_query(&mut self, query: Option<&str>, login_in_query: bool) -> Result<()> {
        let mut seen = Vec::new();
        let (mut user, mut pass) = (None, None);
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let known = match name {
                "db" | "protocol" => true,
                "user" | "pass" => login_in_query,
                _ => false,
            };
            if !known {
                return Err(unknown_parameter(name, login_in_query));
            }
            if seen.contains(&name) {
                return Err(Error::invalid(format!("url: {name} is given twice")));
            }
            seen.push(name);
            // `+` stands for a space, as in HTML forms, redis-rs and URLSearchParams.
            let value = decoded(&value.replace('+', "%20"), name)?;
            match name {
                "db" => self.db = Some(database(&value)?),
                "user" => user = Some(value),
                "pass" => pass = Some(value),
                _ if matches!(value.as_str(), "3" | "resp3") => {}
                _ => {
                    return Err(Error::invalid(
                        "url: protocol must be resp3, which Rollcall uses; leave it out",
                    ));
                }
            }
        }
        if user.is_some() || pass.is_some() {
            if self.login != Login::default() {
                return Err(Error::invalid("url: user and password are given twice"));
            }
            self.login = Login::new(user, pass);
        }
        Ok(())
    }

    /// The database of the path or of the query. Fails if they differ.
    pub fn database(&self, path: Option<&str>) -> Result<i64> {
        let in_path = match path.map(|path| path.strip_suffix('/').unwrap_or(path)) {
            None | Some("") => None,
            Some(path) => Some(database(path)?),
        };
        match (in_path, self.db) {
            (Some(one), Some(other)) if one != other => Err(Error::invalid(
                "url: the db of the path is another than that of ?db=",
            )),
            (one, other) => Ok(one.or(other).unwrap_or(0)),
        }
    }

    /// The addresses. `port` is the default port.
    pub fn addresses(&self, port: u16) -> Vec<Address> {
        let address = |(host, given): &(String, Option<u16>)| Address {
            host: host.clone(),
            port: given.unwrap_or(port),
        };
        self.hosts.iter().map(address).collect()
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

pub fn decoded(text: &str, what: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        *byte == b'%' && !(hex(at + 1) && hex(at + 2))
    });
    if broken {
        return Err(Error::invalid(format!(
            "url: a % in the {what} begins no percent-encoding; write it as %25"
        )));
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| Error::invalid(format!("url: the {what} is not UTF-8")))
}

fn parse_login(login: &str) -> Result<Login> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let user = decoded(user, "user")?;
    let password = password.map(|text| decoded(text, "password")).transpose()?;
    Ok(Login::new(Some(user), password))
}

fn parse_hosts(hosts: &str) -> Result<Vec<(String, Option<u16>)>> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    hosts.split(',').map(parse_host).collect()
}

fn parse_host(text: &str) -> Result<(String, Option<u16>)> {
    let malformed = || {
        Error::invalid(format!(
            "url: a host is not of the form host:port; {ENCODE}"
        ))
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(malformed)?;
        let host: Ipv6Addr = host.parse().map_err(|_| malformed())?;
        let port = match port {
            "" => "",
            _ => port.strip_prefix(':').ok_or_else(malformed)?,
        };
        (host.to_string(), port)
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(fits) {
            return Err(malformed());
        }
        (host.to_owned(), port)
    };
    let port = match port {
        "" => None,
        _ if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            Some(port.ok_or_else(|| {
                Error::invalid("url: a port must be a whole number from 1 to 65535")
            })?)
        }
        _ => return Err(malformed()),
    };
    Ok((host, port))
}

pub fn database(text: &str) -> Result<i64> {
    let number = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse::<i32>().ok()
    } else {
        None
    };
    number.map(i64::from).ok_or_else(|| {
        Error::invalid("url: the db must be a whole number from 0, as in redis://host:6379/0")
    })
}

fn unknown_parameter(name: &str, login_in_query: bool) -> Error {
    // After a password with an unencoded `?`, the name could be a part of the password.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let display = match name {
        _ if name.len() <= 32 && name.chars().all(plain) => format!(" {name:?}"),
        _ => String::new(),
    };
    let advice = match name {
        "tls" | "ssl" => "use rediss:// or the option tls",
        "user" | "username" | "pass" | "password" if !login_in_query => {
            "write user:password@ before the host"
        }
        _ if login_in_query => "there are db, user, pass and protocol",
        _ => "there are db and protocol",
    };
    Error::invalid(format!("url: there is no parameter{display}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: Option<&str>, password: Option<&str>) -> Login {
        Login {
            username: username.map(Into::into),
            password: password.map(Into::into),
        }
    }

    #[test]
    fn every_part_is_read() {
        let url = Url::parse(
            "x://us%65r:p%40ss@[::1]:7,host_a,b.c:9/1?db=1&protocol=resp3#insecure",
            false,
        )
        .unwrap();
        assert_eq!(
            url,
            Url {
                scheme: "x".into(),
                login: login(Some("user"), Some("p@ss")),
                hosts: vec![
                    ("::1".into(), Some(7)),
                    ("host_a".into(), None),
                    ("b.c".into(), Some(9))
                ],
                path: Some("1".into()),
                db: Some(1),
                insecure: true,
            }
        );
        assert_eq!(url.database(Some("1")).unwrap(), 1);
        let unix = Url::parse("x:///a/b?user=u&pass=p+%2B&db=3", true).unwrap();
        assert_eq!(unix.login, login(Some("u"), Some("p +")));
        assert_eq!((unix.path.as_deref(), unix.db), (Some("a/b"), Some(3)));
    }

    #[test]
    fn a_user_without_a_password_logs_in_with_an_empty_one() {
        for (given, expected) in [
            ("tenant@", login(Some("tenant"), Some(""))),
            ("tenant:@", login(Some("tenant"), Some(""))),
            (":@", Login::default()),
            ("@", Login::default()),
            (":p@", login(None, Some("p"))),
            ("", Login::default()),
        ] {
            let url = Url::parse(&format!("x://{given}h"), false).unwrap();
            assert_eq!(url.login, expected, "{given}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_repeated() {
        for (url, named) in [
            ("x://h?family=6", "family"),
            ("x://h?tls=true", "rediss://"),
            ("x://h?password=hush", "before the host"),
            ("x://h?db=1&db=2", "db is given twice"),
            ("x://h?db=x", "the db"),
            ("x://h?protocol=resp2", "protocol"),
            ("x://h#hush", "fragment"),
            ("x://u:6379?hush@h", "an @ after the host"),
            ("x://u:hu/sh@h", "an @ after the host"),
            ("x://u:hu%sh@h", "%25"),
            ("x://u:hush%ff@h", "UTF-8"),
            ("x://u:hush@h:0", "port"),
            ("x://u:hush@h:65536", "port"),
            ("x://u:hush@h:-1", "host:port"),
            ("x://u:hush@h:1:2", "host:port"),
            ("x://u:hush@::1", "host:port"),
            ("x://u:hush@[::1", "host:port"),
            ("x://u:hush@[::1]7", "host:port"),
            ("x://u:hush@[fe80::1%25eth0]", "host:port"),
            ("x://u:hush@h,", "host:port"),
            ("x://u:hush@h%41", "host:port"),
            ("x://u:hu sh@h", "spaces"),
            ("x:hush@h", "scheme://"),
            ("x://u:hush@höst", "host:port"),
        ] {
            let error = Url::parse(url, false).unwrap_err();
            assert!(error.message.contains(named), "{url}: {}", error.message);
            assert!(!error.message.contains("hush"), "{url}: {}", error.message);
        }
        let url = Url::parse("x://h/1?db=2", false).unwrap();
        assert!(url.database(Some("1")).is_err());
        for db in ["x", "-1", "1.5", "1/2", "99999999999", "+1"] {
            assert!(url.database(Some(db)).is_err(), "{db}");
        }
    }
}
