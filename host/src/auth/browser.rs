//! Opens a URL where the user sees it: a program with the URL as its only argument, never a shell.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use url::Url;

use crate::config::Environment;

/// The program that opens a browser, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Browser {
    program: Option<OsString>,
}

impl Browser {
    /// Returns the user's: `BROWSER` if it names a program, else the system's opener.
    ///
    /// Without a display there is none: what would open then is a browser for terminals, and the
    /// terminal is not ours.
    pub fn of(environment: &Environment) -> Self {
        let named = environment.get("BROWSER").filter(|program| !program.is_empty());
        let set = |name| environment.get(name).is_some_and(|value| !value.is_empty());
        let program = match named {
            Some(program) => Some(program),
            None if cfg!(target_os = "macos") => Some("open"),
            None if set("DISPLAY") || set("WAYLAND_DISPLAY") => Some("xdg-open"),
            None => None,
        };
        Self { program: program.map(OsString::from) }
    }

    /// Opens a URL; returns whether there is a browser to open it.
    ///
    /// The caller has made sure that it is an `http` or `https` URL, or a file of ours: a program may do
    /// anything with another one.
    pub(crate) fn open(&self, url: &Url) -> io::Result<bool> {
        let Some(program) = &self.program else { return Ok(false) };
        let mut command = tokio::process::Command::new(program);
        command.arg(url.as_str());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A browser outlives us, and a Ctrl-C for us is none for it.
        command.process_group(0).spawn()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_program_beats_the_systems_and_without_a_display_there_is_none() {
        let program = |variables: &[(&'static str, &'static str)]| {
            let browser = Browser::of(&Environment::of(variables.iter().copied()));
            browser.program.map(|program| program.into_string().unwrap())
        };
        let system = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

        assert_eq!(program(&[("BROWSER", "/x/y z"), ("DISPLAY", ":0")]).as_deref(), Some("/x/y z"));
        assert_eq!(program(&[("BROWSER", ""), ("DISPLAY", ":0")]).as_deref(), Some(system));
        assert_eq!(program(&[("WAYLAND_DISPLAY", "wayland-0")]).as_deref(), Some(system));
        #[cfg(target_os = "linux")]
        assert_eq!(program(&[("DISPLAY", "")]), None);
    }
}
