// Package api is the client that oapi-codegen generates.
package api

//go:generate go tool oapi-codegen -generate types,client -package api -o api.gen.go ../../openapi.json
