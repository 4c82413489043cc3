"""The control API: HTTP over a Unix socket that only its owner may open. `app` has the routes, `server` the socket."""
