// A Go program that knows nothing of spans.
package main

import "fmt"

func main() { fmt.Println("plain") }
