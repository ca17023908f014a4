"""Methods behind one protocol: `registry` finds them by name, `loading` reads what they trained."""
