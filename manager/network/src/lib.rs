//! Networks of containers: modes, names and the files in /etc that go with them.
