//! Failpoints: places at which a test disables a defence, to show that the test of that defence fails
//! without it, or makes the process crash. An active failpoint disables its defence.
//!
//! They exist in the tests' own build only (feature `test-faults`). In every other build the macros below
//! expand to `false` or to `()`.

/// Whether a [`Failpoint`] is active: a condition, which is `false` in every build but the tests' own.
#[cfg(feature = "test-faults")]
macro_rules! failpoint {
    ($name:ident) => {
        $crate::failpoints::is_active($crate::failpoints::Failpoint::$name)
    };
}
#[cfg(not(feature = "test-faults"))]
macro_rules! failpoint {
    ($name:ident) => {
        false
    };
}

/// Panics if the [`Failpoint`] is active.
#[cfg(feature = "test-faults")]
macro_rules! panic_point {
    ($name:ident) => {
        assert!(
            !$crate::failpoints::failpoint!($name),
            "a test asked for a panic"
        )
    };
}
#[cfg(not(feature = "test-faults"))]
macro_rules! panic_point {
    ($name:ident) => {
        ()
    };
}

/// Ends the process as a crash does, if a test has selected this [`Step`].
///
/// `crash_point!(Step, calls, send)` is for a step that sends several calls together: before the crash,
/// `send` sends those of `calls` that the test has selected.
#[cfg(feature = "test-faults")]
macro_rules! crash_point {
    ($step:ident) => {
        if $crate::failpoints::crashes_in($crate::failpoints::Step::$step).is_some() {
            std::process::abort();
        }
    };
    ($step:ident, $calls:ident, $send:expr) => {
        if let Some(sent) = $crate::failpoints::crashes_in($crate::failpoints::Step::$step) {
            let $calls = sent.of($calls);
            $send.await;
            std::process::abort();
        }
    };
}
#[cfg(not(feature = "test-faults"))]
macro_rules! crash_point {
    ($step:ident $(, $calls:ident, $send:expr)?) => {
        ()
    };
}

pub(crate) use {crash_point, failpoint, panic_point};

/// Defines an enumeration and the list of names by which tests refer to its variants, in the same order.
#[cfg(feature = "test-faults")]
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $set:ident in $names:ident {
            $($(#[$doc:meta])* $name:ident: $text:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $set {
            $($(#[$doc])* $name,)*
        }

        const $names: &[&str] = &[$($text),*];
    };
}

#[cfg(feature = "test-faults")]
mod defences;
#[cfg(feature = "test-faults")]
mod steps;

#[cfg(feature = "test-faults")]
pub use {
    defences::{Failpoint, activate, is_active},
    steps::{SentCalls, Step, crash_in, crashes_in},
};
