"""The first hour at a site: settings and peer files written by `cxr init`, a film sent by `cxr demo`."""
