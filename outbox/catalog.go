// Code generated from outbox/catalog.json by `make generate`; DO NOT EDIT.

package outbox

// The catalog.
const (
	RequestCreated       Name = "request:created"        // A request was created
	RequestUpdated       Name = "request:updated"        // A request's own fields were changed
	RequestStatusChanged Name = "request:status_changed" // A request went from one status to another
	RequestAssigned      Name = "request:assigned"       // A request was given to somebody, or to nobody
	CommentAdded         Name = "comment:added"          // A comment was added to a request
	CommentDeleted       Name = "comment:deleted"        // A comment was deleted
	AttachmentUploaded   Name = "attachment:uploaded"    // A file was attached to a request
	AttachmentDeleted    Name = "attachment:deleted"     // A file was taken off a request
)
