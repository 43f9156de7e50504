//! keg-runtime by its command line, on bundles; asked of the probe inside.

mod lifecycle;
