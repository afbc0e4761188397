//! Degraded mode: its keys and their presets.
//!
//! Apart from the other sections because unset fields come from a preset: the value is the preset's name, the fields,
//! or both together.

use super::problem::Problems;
use super::section::{Fields, Shorthand, choice, section};
use std::time::Duration;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

choice! {
    /// A set of thresholds for degraded mode.
    pub enum Preset {
        /// Longer thresholds, less noise.
        Conservative = "conservative",
        /// The defaults.
        Balanced = "balanced",
        /// Shorter thresholds, early detection.
        Aggressive = "aggressive",
    }
}

section! {
    /// When a worker enters and leaves degraded mode.
    pub struct DegradedBehavior {
        /// Where fields that are not set come from: conservative, balanced or aggressive.
        preset: Preset = Preset::Balanced;
        /// How long the connection is lost before the mode is entered.
        enter_threshold: Duration = secs(10);
        /// How long all must go well before the mode is left.
        exit_threshold: Duration = secs(5);
        /// Consecutive errors of KV operations that enter the mode.
        kv_error_threshold: u32 = 5;
        /// Window in which these errors are counted.
        kv_error_window: Duration = secs(30);
        /// How long after the mode nobody is judged, so that all can reconnect first.
        recovery_grace_period: Duration = secs(30);
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Key("preset"));

        fn base(fields: &Fields<'_>) -> Self {
            Self::preset(preset_of(fields))
        }
    }
}

impl DegradedBehavior {
    /// The thresholds of a preset.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Conservative => Self {
                preset,
                enter_threshold: secs(30),
                exit_threshold: secs(10),
                kv_error_threshold: 10,
                kv_error_window: secs(30),
                recovery_grace_period: secs(60),
            },
            Preset::Balanced => Self::default(),
            Preset::Aggressive => Self {
                preset,
                enter_threshold: secs(5),
                exit_threshold: secs(3),
                kv_error_threshold: 3,
                kv_error_window: secs(15),
                recovery_grace_period: secs(10),
            },
        }
    }
}

section! {
    /// When a worker in degraded mode raises alerts.
    pub struct DegradedAlert {
        /// Where fields that are not set come from: conservative, balanced or aggressive.
        preset: Preset = Preset::Balanced;
        /// Time until the level Info.
        info_threshold: Duration = secs(60);
        /// Time until the level Warn.
        warn_threshold: Duration = secs(5 * 60);
        /// Time until the level Error.
        error_threshold: Duration = secs(15 * 60);
        /// Time until the level Critical.
        critical_threshold: Duration = secs(30 * 60);
        /// Time between two alerts of the same level.
        alert_interval: Duration = secs(30);
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Key("preset"));

        fn base(fields: &Fields<'_>) -> Self {
            Self::preset(preset_of(fields))
        }
    }
}

impl DegradedAlert {
    /// The thresholds of a preset.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Conservative => Self {
                preset,
                info_threshold: secs(2 * 60),
                warn_threshold: secs(10 * 60),
                error_threshold: secs(30 * 60),
                critical_threshold: secs(60 * 60),
                alert_interval: secs(5 * 60),
            },
            Preset::Balanced => Self::default(),
            Preset::Aggressive => Self {
                preset,
                info_threshold: secs(15),
                warn_threshold: secs(60),
                error_threshold: secs(5 * 60),
                critical_threshold: secs(10 * 60),
                alert_interval: secs(15),
            },
        }
    }
}

/// Which preset the unset fields of a section come from.
fn preset_of(fields: &Fields<'_>) -> Preset {
    // A wrong name is reported when the field itself is read.
    fields.read("preset", Preset::Balanced, false, &mut Problems::default())
}
