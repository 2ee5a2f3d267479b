module blocker

go 1.21
