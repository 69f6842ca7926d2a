package scenario_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// more waits until the client has n further events.
func more(t *testing.T, c *scenario.Client, n int) {
	t.Helper()
	before := c.Received()
	if err := c.Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+n }); err != nil {
		t.Fatal(err)
	}
}

// A Cluster of three masters with replicas: slots move under load, and a master is killed and its replica promoted. A relay and a node apart.
func TestARedisClusterMovesSlotsAndFailsOver(t *testing.T) {
	t.Parallel()
	cluster := testenv.Cluster(t, 3, true)
	w := scenario.New(t, testenv.Postgres(t), cluster.URL, 6, 2)
	front := w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000")
	w.Node("ROLE=relay")
	steady, restless := scenario.NewClient("u0", front), scenario.NewClient("u1", front)
	crowd(t, steady, restless)
	client := openRedis(t, cluster.URL).(*redis.ClusterClient)
	j := w.NewJournal(6)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, size(time.Second, 20*time.Second), func() {
		more(t, restless, 1)
		for n := range size(2, 6) {
			slot := client.ClusterKeySlot(t.Context(), fmt.Sprintf("socket:events:program:p%d", n)).Val()
			from := owner(t, cluster, client, int(slot))
			cluster.MoveSlot(t, int(slot), cluster.Nodes[from], cluster.Nodes[(from+1)%3])
			restless.Drop()
			more(t, steady, 20)
		}
		if err := cluster.Nodes[1].Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		restless.Drop()
		testenv.Eventually(t, 20*time.Second, func() error {
			if role := fmt.Sprint(testenv.Do(t, cluster.Nodes[4], "ROLE")); role[:7] != "[master" {
				return fmt.Errorf("the replica isn't promoted: %s", role)
			}
			return nil
		})
		more(t, steady, 50)
	})
	verdict(t, j, steady, restless)
	front.Ready()
}

// owner is the index of the master that has a slot.
func owner(t *testing.T, cluster *testenv.RedisCluster, client *redis.ClusterClient, slot int) int {
	t.Helper()
	shards, err := client.ClusterShards(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, shard := range shards {
		has := slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return int(r.Start) <= slot && slot <= int(r.End) })
		for i, node := range cluster.Nodes {
			if has && slices.ContainsFunc(shard.Nodes, func(n redis.Node) bool {
				return n.Role == "master" && strings.HasSuffix(node.Addr, fmt.Sprintf(":%d", n.Port))
			}) {
				return i
			}
		}
	}
	t.Fatalf("nobody has slot %d: %v", slot, shards)
	return 0
}

// Sentinel promotes the replica of a master that was killed under load.
func TestSentinelFailsOverUnderLoad(t *testing.T) {
	t.Parallel()
	for name, password := range map[string]string{"open": "", "with passwords": "a-redis-password"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sentinelFailsOver(t, testenv.Sentinel(t, password))
		})
	}
}

func sentinelFailsOver(t *testing.T, sentinel *testenv.RedisSentinel) {
	t.Helper()
	w := scenario.New(t, testenv.Postgres(t), sentinel.URL, 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	steady, restless := scenario.NewClient("u0", node), scenario.NewClient("u1", node)
	crowd(t, steady, restless)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, size(time.Second, 20*time.Second), func() {
		more(t, steady, 50)
		if err := sentinel.Master.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		restless.Drop()
		more(t, steady, 200)
	})
	report := verdict(t, j, steady, restless)
	if len(report.WriterErrors) != 0 || report.SlowestCommit > 5*time.Second {
		t.Errorf("the writers noticed: slowest COMMIT %v", report.SlowestCommit)
	}
	node.Ready()
	if role := fmt.Sprint(testenv.Do(t, sentinel.Replica, "ROLE")); role[:7] != "[master" {
		t.Errorf("the replica is %s", role)
	}
}

// authority writes the certificate of an authority of this test's own, and one for 127.0.0.1 that it signed, with its key, and returns the paths.
func authority(t *testing.T) (ca, certificate, key string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		do(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	do(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	do(err)
	der, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	do(err)
	ca = write("ca.pem", "CERTIFICATE", der)
	der, err = x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	do(err)
	certificate = write("redis.pem", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(leafKey)
	do(err)
	return ca, certificate, write("redis.key", "PRIVATE KEY", der)
}

// Over TLS everything is as without, also when Redis goes and comes back; and a certificate that the system doesn't trust is refused, loudly.
func TestRedisOverTLS(t *testing.T) {
	t.Parallel()
	ca, certificate, key := authority(t)
	address := testenv.FreeAddr(t)
	_, port, _ := strings.Cut(address, ":")
	server := testenv.OwnRedis(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no")
	w := scenario.New(t, testenv.Postgres(t), "rediss://"+address+"/0", 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000", "SSL_CERT_FILE="+ca)
	steady, restless := scenario.NewClient("u0", node), scenario.NewClient("u1", node)
	crowd(t, steady, restless)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 2, Pause: 10 * time.Millisecond}, size(time.Second, 10*time.Second), func() {
		more(t, steady, 50)
		if err := server.Restart(testenv.Context(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		restless.Drop()
		more(t, steady, 50)
	})
	verdict(t, j, steady, restless)
	node.Ready()
	stranger := w.Node("ROLE=ws")
	testenv.Eventually(t, 20*time.Second, func() error {
		if _, err := stranger.Get("/readyz"); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			return fmt.Errorf("/readyz says %w", err)
		}
		return nil
	})
}
