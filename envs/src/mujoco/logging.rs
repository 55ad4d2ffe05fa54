//! MuJoCo's own log, turned off.

use std::sync::Once;

use mujoco_rs::wrappers::mj_logging::{log_config, set_log_config};

/// Stops MuJoCo from printing its warnings and from appending them to `MUJOCO_LOG.TXT` in the working directory: an
/// environment reports them once, by [`take_warning`](crate::Env::take_warning).
#[allow(unsafe_code)]
pub fn turn_off() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: this runs before our first model is loaded, and the fields are plain flags. Gymnasium's MuJoCo may be
        // running in the same process; it holds Python's lock while it could read them, and reads either value soundly.
        unsafe { set_log_config(log_config().with_logto_console(false).with_logto_file(false)) };
    });
}
