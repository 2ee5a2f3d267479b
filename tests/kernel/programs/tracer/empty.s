// Has the compiler accept a function without a body in this package.
