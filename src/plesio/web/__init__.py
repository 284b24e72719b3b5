"""The pool over HTTP, for programs in other languages. A process of its own, which is a client of the pool."""
