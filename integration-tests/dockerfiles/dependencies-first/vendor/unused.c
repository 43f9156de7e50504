#error nobody compiles this
