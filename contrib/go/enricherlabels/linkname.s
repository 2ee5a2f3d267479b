// Empty: it lets functions without a body be declared, see labels.go.
